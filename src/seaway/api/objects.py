"""JSON objects that are kept: whatever is stored must be readable again, in both databases and by every client."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from seaway.errors import InvalidRequest
from seaway.registry.identity import checked_text
from seaway.types import Json
from seaway.wire.strict import decode_json, refuse_repeated_keys

MAX_LEVELS = 32
"""Objects and lists within each other in one field; writers of JSON give up somewhere above 200."""
_SHOWN_CHARACTERS = 60
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def read_object(text: bytes, field: str = "") -> Json:
    """A JSON object of finite numbers and Unicode text without NUL, not nested too deep and without a key sent twice.

    Raises InvalidRequest naming the place; `field` is that of the form which holds the text.
    """
    places = (field,) if field else ()
    try:
        value = decode_json(_OBJECT.decode, text, field)
    except InvalidRequest:
        _look_again(text, places)
        raise
    _check(value, places)
    refuse_repeated_keys(text, -1)
    return value


def _look_again(text: bytes, places: tuple[str, ...]) -> None:
    """Python's reader takes what the strict one refuses without saying where: NaN, halves of surrogate pairs."""
    try:
        _check(json.loads(text.decode()), places)
    except RecursionError as error:
        raise _too_deep(places) from error
    except ValueError:
        return  # no JSON at all, which was said


def _check(value: Any, places: tuple[str, ...]) -> None:
    if len(places) > MAX_LEVELS and isinstance(value, dict | list):
        raise _too_deep(places[:1])
    if isinstance(value, dict):
        for key, item in value.items():
            checked_text(f"{_named(places)}: a key", key)
            if isinstance(item, _CHECKED):
                _check(item, (*places, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, _CHECKED):
                _check(item, (*places, str(index)))
    elif isinstance(value, str):
        checked_text(_named(places), value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{_named(places)}: expected a finite number.")


_CHECKED = (dict, list, str, float)


def _too_deep(places: tuple[str, ...]) -> InvalidRequest:
    return InvalidRequest(f"{_named(places)} is nested too deeply: expected at most {MAX_LEVELS} levels.")


def _named(places: tuple[str, ...]) -> str:
    return f'"{".".join(place[:_SHOWN_CHARACTERS] for place in places)}"' if places else "The body"
