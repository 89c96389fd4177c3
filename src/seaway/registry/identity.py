"""Ids that are pure functions of content, so that two machines agree without talking; what may be a name."""

from __future__ import annotations

import hashlib
import json
import re

from seaway.errors import InvalidRequest
from seaway.types import NAME, Json

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")
# As JSON writes them: a NUL after an even number of backslashes, or the half of a pair.
_UNKEEPABLE_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]")


def canonical_json(value: object, what: str = "The JSON") -> str:
    """One text for equal values: sorted keys, no spaces. Raises InvalidRequest for what has no such form.

    >>> canonical_json({"b": 1, "a": [True, "ä"]})
    '{"a":[true,"ä"],"b":1}'
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"{what} holds NaN or Infinity; numbers must be finite.") from error
    except RecursionError as error:
        raise InvalidRequest(f"{what} is nested too deep.") from error
    if _UNKEEPABLE_JSON.search(text):
        raise InvalidRequest(f"{what} holds a NUL or half of a surrogate pair; send valid Unicode text without NUL.")
    return text


def spec_digest(spec: Json) -> str:
    """SHA-256 of a model specification: architecture, hyper-parameters, validation strategy, code commit."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def experiment_id(dataset_digest: str, specification_digest: str) -> str:
    """The experiment that trains this specification on exactly these bytes.

    >>> experiment_id("a" * 64, "b" * 64)
    '351e5597ea9bd0a58e34a2ef32423104'
    """
    return hashlib.sha256(f"exp1:{dataset_digest}:{specification_digest}".encode()).hexdigest()[:32]


def checked_name(kind: str, name: str) -> str:
    """`name` if it may be a name. Raises InvalidRequest."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is no {kind} name: 1 to 128 characters out of letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit."
        )
    return name


def checked_text(what: str, text: str, *, max_characters: int | None = None) -> str:
    """`text` if both databases can keep it. Raises InvalidRequest."""
    if _UNKEEPABLE.search(text):
        raise InvalidRequest(f"{what} holds a NUL or half of a surrogate pair; send valid Unicode text without NUL.")
    if max_characters is not None and len(text) > max_characters:
        raise InvalidRequest(f"{what} has {len(text)} characters; at most {max_characters} are kept.")
    return text
