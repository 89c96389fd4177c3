"""What pydantic found wrong, as one sentence that names the field and says what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SENTENCES = {
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_parsing_size": "expected an integer of fewer digits",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
}
_WITHOUT_VALUE = {"missing": "is missing", "extra_forbidden": "is not known here; take it out"}
_PLACES = {"body", "query", "path", "header"}
_SHOWN_CHARACTERS = 60


def explain(found: object) -> str:
    """The first of pydantic's findings.

    >>> explain([{"type": "int_type", "loc": ("body", "version"), "input": "x", "msg": ""}])
    '"version": expected an integer, got \\'x\\'.'
    """
    first = next(iter(found), None) if isinstance(found, list | tuple) else None
    if not isinstance(first, Mapping):
        return "The request is not as expected."
    place = list(first.get("loc", ()))
    if place[:1] and place[0] in _PLACES:
        place = place[1:]
    name = ".".join(str(part)[:_SHOWN_CHARACTERS] for part in place)
    about = f'"{name}"' if name else "The body"
    kind = str(first.get("type", ""))
    return f"{about} {_WITHOUT_VALUE[kind]}." if kind in _WITHOUT_VALUE else f"{about}: {_sentence(kind, first)}."


def _sentence(kind: str, finding: Mapping[str, Any]) -> str:
    if kind in _SENTENCES:
        bounds = {name: _plain(bound) for name, bound in (finding.get("ctx") or {}).items()}
        return _SENTENCES[kind].format_map(bounds) + _shown(finding.get("input"))
    if kind.startswith("datetime"):
        return "expected a time such as 2026-01-31T12:00:00Z" + _shown(finding.get("input"))
    message = str(finding.get("msg", "is wrong")).removeprefix("Value error, ").rstrip(".")
    return f"{message[:1].lower()}{message[1:]}{_shown(finding.get('input'))}"


def _plain(bound: object) -> object:
    """A bound as people write it: 0, not 0.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _shown(value: object) -> str:
    """What came instead, if it is small enough to be shown."""
    if isinstance(value, dict):
        return ", got an object"
    if isinstance(value, list):
        return ", got a list"
    if value is None or isinstance(value, bool):
        return f", got {str(value).lower().replace('none', 'null')}"
    text = repr(value)
    if len(text) <= _SHOWN_CHARACTERS:
        return f", got {text}"
    return f", got {len(value)} characters" if isinstance(value, str) else ""
