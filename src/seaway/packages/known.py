"""What a YAML file might have meant: the keys and values that a type knows at the place of a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")


def advice(wrong: str, known: Sequence[str]) -> str:
    """The word that is meant, or all there are.

    >>> advice("tokenzier", ["tokenizer", "max_tokens"]), advice("speed", ["tokenizer", "max_tokens"])
    ("did you mean 'tokenizer'?", 'known are: tokenizer, max_tokens.')
    >>> advice("speed", [])
    'remove it or check its spelling.'
    """
    if not known:
        return "remove it or check its spelling."
    close = get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}."


def known_keys(kind: Any, value: Any, path: str) -> list[str]:
    """The keys that `kind` has at `path`, as msgspec writes it behind `$`, in `value`."""
    structs = [one for one in _at(kind, value, path) if isinstance(one, inspect.StructType)]
    tags = [str(one.tag_field) for one in structs if one.tag_field]
    return list(dict.fromkeys([*tags, *(field.encode_name for one in structs for field in one.fields)]))


def known_values(kind: Any, value: Any, path: str) -> list[str]:
    """The words that are accepted at `path`, where only some are: those of a choice, or the names of kinds."""
    parent, _, key = path.rpartition(".")
    named = [one for one in _at(kind, None, parent) if isinstance(one, inspect.StructType) and one.tag_field == key]
    if named:
        return [str(one.tag) for one in named]
    return [str(word) for one in _at(kind, value, path) if isinstance(one, inspect.LiteralType) for word in one.values]


def value_at(value: Any, path: str) -> Any:
    """What stands at `path` in `value`; None where that can't be told.

    >>> value_at({"sizes": [1, "b"]}, ".sizes[1]")
    'b'
    """
    for step in _STEP.finditer(path):
        value = _inside(value, step)
    return value


def _at(kind: Any, value: Any, path: str) -> list[inspect.Type]:
    """The types that may stand at `path`; of several with tags, the one that `value` names."""
    found = _chosen(inspect.type_info(kind), value)
    for step in _STEP.finditer(path):
        value = _inside(value, step)
        found = [one for outer in found for inner in _inner(outer, step[1]) for one in _chosen(inner, value)]
    return found


def _chosen(kind: inspect.Type, value: Any) -> list[inspect.Type]:
    members = list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]
    if not isinstance(value, dict):
        return members
    structs = [one for one in members if isinstance(one, inspect.StructType) and one.tag_field]
    return [one for one in structs if value.get(str(one.tag_field)) == one.tag] or members


def _inner(kind: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    if name is not None and isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == name)
    elif name is None and isinstance(kind, inspect.DictType):
        yield kind.value_type
    elif name is None and isinstance(kind, inspect.CollectionType):
        yield kind.item_type


def _inside(value: Any, step: re.Match[str]) -> Any:
    """What `value` has there; None where that can't be told."""
    if step[1] is not None:
        return value.get(step[1]) if isinstance(value, dict) else None
    at = int(step[2]) if step[2].isdigit() else -1
    return value[at] if isinstance(value, list | tuple) and 0 <= at < len(value) else None
