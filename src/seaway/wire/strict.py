"""What every JSON body is held to beyond its grammar; every way to break it is an InvalidRequest.

The grammar is msgspec's, which knows no NaN and no Infinity and takes no invalid UTF-8, no lone surrogate and no number
out of range. Two things it lets pass are refused here: NUL in a string, which C libraries take for its end, and a key
sent twice, which two readers may understand in two ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from seaway.errors import InvalidRequest

KEYS_CHECKED_BYTES = 1 << 16
"""Up to this size a key sent twice is refused; in a larger body the last one counts."""

T = TypeVar("T")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u)")
_INVALID = re.compile(r"invalid character \(byte (\d+)\)")
_NO_NUMBER = re.compile(rb"NaN|Infinity")
_WORDS = {
    " | null`": "`", "`null`": "null",
    "`float`": "a number", "`int`": "an integer", "`bool`": "a boolean", "`str`": "a string",
    "`array`": "a list", "`object`": "an object",
}  # fmt: skip


def decode_json(decode: Callable[[bytes | msgspec.Raw], T], text: bytes | msgspec.Raw, where: str = "") -> T:
    """What `decode`, a msgspec decoder, makes of `text`; `where` begins the place that a message names.

    >>> decode_json(msgspec.json.Decoder(list[int]).decode, b"[1, 2.5]", "shape")
    Traceback (most recent call last):
    seaway.errors.InvalidRequest: shape[1]: expected an integer, got a number.
    """
    try:
        return decode(text)
    except RecursionError as error:
        raise InvalidRequest(f"{where or 'The body'} is nested too deeply.") from error
    except msgspec.ValidationError as error:
        raise InvalidRequest(_explained(str(error), where)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = _malformed(str(error), bytes(text))
        raise InvalidRequest(f"{where or 'The body'} is not valid JSON: {problem}.") from error


def _malformed(message: str, text: bytes) -> str:
    """msgspec's message; in plain words for what clients write that hold more for JSON than there is.

    >>> _malformed("JSON is malformed: invalid character (byte 1)", b"[NaN]")
    'JSON has no NaN; send numbers, or null where a value may be missing'
    """
    if "surrogate" in message or ("truncated" in message and _HALF_PAIR.search(text)):
        return "a string has half a surrogate pair (\\ud800 to \\udfff); send both halves, or the character itself"
    if (place := _INVALID.search(message)) and (word := _NO_NUMBER.match(text, int(place[1]))):
        return f"JSON has no {word[0].decode()}; send numbers, or null where a value may be missing"
    return message


def _explained(message: str, where: str) -> str:
    text, _, path = message.partition(" - at `$")
    for word, plain in _WORDS.items():
        text = text.replace(word, plain)
    # msgspec writes [...] for a key that it doesn't name.
    place = f"{where}{path.rstrip('`').replace('[...]', '')}".lstrip(".") or "The body"
    return f"{place}: {text[:1].lower()}{text[1:]}."


def refuse_nul(text: bytes) -> None:
    """Raises InvalidRequest when a string of the JSON `text` holds U+0000."""
    # Most bodies hold no backslash, and one byte is found ten times as fast as six.
    if b"\\" in text and b"\\u0000" in text and _NUL.search(text):
        raise InvalidRequest("The body has NUL (\\u0000) in a string; JSON strings here are text without it.")


def refuse_repeated_keys(text: bytes, n_keys: int) -> None:
    """Raises InvalidRequest when an object of the JSON `text` has a key twice; `n_keys` keys came out of decoding it.

    Each key brings one colon, so as many colons as keys prove that none was lost. Only when there are more (colons
    within strings, keys that nobody read) is the text read a second time.
    """
    if len(text) > KEYS_CHECKED_BYTES or text.count(b":") == n_keys:
        return
    try:
        json.loads(text.decode(), object_pairs_hook=_unique, parse_int=len, parse_float=len)
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise InvalidRequest(f"The key {key[:80]!r} is there twice; send it once.")
        seen.add(key)
