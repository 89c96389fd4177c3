"""One tensor: from JSON or little-endian bytes to numpy, and back."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest

MAX_RANK = 32
_MAX_EXTENT = 2**63 - 1
_LENGTH = struct.Struct("<I")
Array = np.ndarray[Any, Any]

_FLAT: dict[str, msgspec.json.Decoder[Any]] = {
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "b": msgspec.json.Decoder(list[bool]),
    "O": msgspec.json.Decoder(list[str]),
}
_ANY = msgspec.json.Decoder()
_ELEMENTS: dict[str, tuple[tuple[type, ...], str]] = {
    "f": ((int, float), "numbers"),
    "i": ((int,), "integers"),
    "u": ((int,), "integers"),
    "b": ((bool,), "true or false"),
    "O": ((str,), "strings"),
}


def shape_of(given: list[Any], where: str) -> tuple[int, ...]:
    """The declared shape, checked. Raises InvalidRequest."""
    if len(given) > MAX_RANK:
        raise InvalidRequest(f"{where}.shape has {len(given)} dimensions; at most {MAX_RANK} are allowed.")
    for extent in given:
        if isinstance(extent, bool) or not isinstance(extent, int) or not 0 <= extent <= _MAX_EXTENT:
            raise InvalidRequest(f"{where}.shape: every dimension must be a whole number from 0.")
    return tuple(given)


def json_array(raw: msgspec.Raw, datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """The `data` of a JSON tensor, flat or nested. Raises InvalidRequest."""
    if datatype == "BF16":
        raise InvalidRequest(f"{where}: BF16 has no JSON form; send it as binary data.")
    kind = dtype.kind
    try:
        values = _FLAT[kind].decode(raw)
    except (msgspec.ValidationError, RecursionError):
        values = _flatten(raw, kind, where)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{where}.data is not valid JSON: {error}.") from error
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidRequest(f"{where}.data has {len(values)} elements; the shape {list(shape)} needs {count}.")
    return _convert(values, datatype, dtype, where).reshape(shape)


def _flatten(raw: msgspec.Raw, kind: str, where: str) -> list[Any]:
    """Nested lists in row-major order; says what is wrong where the flat decoder only refused."""
    try:
        value = _ANY.decode(raw)
    except RecursionError as error:
        raise InvalidRequest(f"{where}.data is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{where}.data is not valid JSON: {error}.") from error
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}.data: expected a list.")
    for _ in range(MAX_RANK):
        if not any(isinstance(item, list) for item in value):
            return _checked(value, kind, where)
        if not all(isinstance(item, list) for item in value):
            raise InvalidRequest(f"{where}.data mixes lists and single values.")
        if len({len(item) for item in value}) > 1:
            raise InvalidRequest(f"{where}.data has rows of different lengths.")
        value = [element for item in value for element in item]
    raise InvalidRequest(f"{where}.data is nested more than {MAX_RANK} deep.")


def _checked(values: list[Any], kind: str, where: str) -> list[Any]:
    types, words = _ELEMENTS[kind]
    for index, value in enumerate(values):
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "b"):
            raise InvalidRequest(f"{where}.data: expected {words}; element {index} is {_shown(value)}.")
    return values


def _shown(value: Any) -> str:
    return msgspec.json.encode(value)[:40].decode(errors="replace")


def _convert(values: list[Any], datatype: str, dtype: np.dtype[Any], where: str) -> Array:
    if dtype.kind == "O":
        strings: Array = np.empty(len(values), dtype=np.object_)
        strings[:] = [value.encode() for value in values]
        return strings
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(values, dtype=dtype)
    except (OverflowError, ValueError) as error:
        raise InvalidRequest(f"{where}.data holds a number that {datatype} can't represent.") from error
    if dtype.kind == "f" and not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        raise InvalidRequest(f"{where}.data: element {first} is too large for {datatype}.")
    return array


def binary_array(data: memoryview, datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """A tensor out of its bytes, without a copy except for BYTES. Raises InvalidRequest."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _strings(data, count, where).reshape(shape)
    expected = count * dtype.itemsize
    if len(data) != expected:
        raise InvalidRequest(f"{where} has {len(data)} bytes; {datatype} of shape {list(shape)} needs {expected}.")
    array: Array = np.frombuffer(data, dtype=dtype).reshape(shape)
    if datatype == "BOOL" and np.any(array.view(np.uint8) > 1):
        raise InvalidRequest(f"{where}: a BOOL is one byte, 0 or 1.")
    return array


def _strings(data: memoryview, count: int, where: str) -> Array:
    # Each element takes four bytes at least, so the bytes bound what is allocated.
    if count * _LENGTH.size > len(data):
        raise InvalidRequest(f"{where} has {len(data)} bytes; {count} BYTES elements need at least {count * _LENGTH.size}.")
    strings: Array = np.empty(count, dtype=np.object_)
    at = 0
    for index in range(count):
        if len(data) - at < _LENGTH.size:
            raise InvalidRequest(f"{where}: the length of element {index} is cut off.")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if size > len(data) - at:
            raise InvalidRequest(f"{where}: element {index} claims {size} bytes, {len(data) - at} are left.")
        strings[index] = bytes(data[at : at + size])
        at += size
    if at != len(data):
        raise InvalidRequest(f"{where}: {len(data) - at} bytes follow the last of {count} BYTES elements.")
    return strings


def binary_bytes(array: Array, datatype: str) -> bytes | memoryview:
    """A tensor's little-endian, row-major bytes."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for item in array.reshape(-1):
            raw = item.encode() if isinstance(item, str) else bytes(item)
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)
    whole = np.ascontiguousarray(array)
    return memoryview(whole.reshape(-1).view(np.uint8)) if whole.size else b""


def json_values(array: Array, datatype: str) -> Any:
    """A tensor's elements, flat, ready for the JSON encoder."""
    if datatype == "BYTES":
        return [item if isinstance(item, str) else bytes(item).decode(errors="replace") for item in array.reshape(-1)]
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return msgspec.Raw(_tokens(array))
        return array.astype(np.float64, copy=False).reshape(-1).tolist()
    return array.reshape(-1).tolist()


def _tokens(array: Array) -> bytes:
    """With NaN and Infinity as JavaScript writes them, which Python's and Triton's JSON readers take."""
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    texts = [repr(float(value)) for value in array.reshape(-1)]
    return ("[" + ",".join([words.get(text, text) for text in texts]) + "]").encode()
