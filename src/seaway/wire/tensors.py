"""One tensor: from JSON or little-endian bytes to numpy, and back."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import chain
from types import GenericAlias
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.wire.datatypes import DTYPES, Array, bf16_to_fp32
from seaway.wire.numbers import write_numbers
from seaway.wire.strict import decode_json

MAX_RANK = 16
_MAX_ELEMENTS = 2**48
_LENGTH = struct.Struct("<I")
_BRACKETS = re.compile(rb"[\s\[]*")
_PYTHON_TYPES: dict[str, Any] = {"f": float, "i": int, "u": int, "b": bool, "O": str}


def check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """A declared shape, whose dimensions are known to be whole numbers from 0. Raises InvalidRequest."""
    if len(shape) > MAX_RANK:
        raise InvalidRequest(f"{where}.shape has {len(shape)} dimensions; at most {MAX_RANK} are allowed.")
    # Dimensions of 0 don't make the others harmless: numpy refuses [0, 2**63 - 1] by an error of its own.
    if math.prod(extent or 1 for extent in shape) > _MAX_ELEMENTS:
        raise InvalidRequest(f"{where}.shape is too large: its dimensions multiply to more than 2**48.")
    return tuple(shape)


# ----------------------------------------------------------------------------------------------------- from JSON


def json_array(raw: msgspec.Raw, datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """The `data` of a JSON tensor, flat or nested. Raises InvalidRequest.

    Nested lists must be nested as the shape says, dimensions of 1 aside: a transposed array is an error, not an answer.
    """
    where = f"{where}.data"
    if datatype == "BF16":
        raise InvalidRequest(f"{where}: BF16 has no JSON form; send it as binary data.")
    depth = _depth(raw, where)
    values, extents = flattened(decode_json(_decoder(dtype.kind, depth), raw, where), depth, where)
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidRequest(f"{where} has {len(values)} elements; the shape {list(shape)} needs {count}.")
    if depth > 1 and count and [n for n in extents if n != 1] != [n for n in shape if n != 1]:
        raise InvalidRequest(f"{where} is nested as {extents}; the shape is {list(shape)}.")
    return _converted(values, datatype, dtype, where).reshape(shape)


def _depth(raw: msgspec.Raw, where: str) -> int:
    """How many lists deep the first element is; the decoder then holds all others to that."""
    brackets = _BRACKETS.match(memoryview(raw))
    depth = brackets.group().count(b"[") if brackets else 0
    if depth > MAX_RANK:
        raise InvalidRequest(f"{where} is nested more than {MAX_RANK} deep.")
    return max(depth, 1)


@cache
def _decoder(kind: str, depth: int) -> Any:
    element = _PYTHON_TYPES[kind]
    for _ in range(depth):
        element = GenericAlias(list, (element,))
    return msgspec.json.Decoder(element).decode


def flattened(values: list[Any], depth: int, where: str) -> tuple[list[Any], list[int]]:
    """Nested lists in row-major order, and how long they were at each level."""
    extents = [len(values)]
    for _ in range(depth - 1):
        lengths = set(map(len, values))
        if len(lengths) > 1:
            raise InvalidRequest(f"{where} has rows of different lengths.")
        extents.append(lengths.pop() if lengths else 0)
        values = list(chain.from_iterable(values))
    return values, extents


@lru_cache(256)
def layout(count: int, dtype: np.dtype[Any]) -> str:
    """`count` numbers of a type as module `struct` writes them, which refuses what is out of the type's range.

    >>> layout(3, np.dtype("int64"))
    '=3q'
    """
    # The standard sizes: of native ones, struct lets floats become infinite. Only its `long` has another size then.
    return f"={count}{dtype.char.replace('l', 'q').replace('L', 'Q')}"


def _converted(values: list[Any], datatype: str, dtype: np.dtype[Any], where: str) -> Array:
    if dtype.kind == "O":
        strings: Array = np.empty(len(values), dtype=np.object_)
        strings[:] = [value.encode() for value in values]
        return strings
    try:
        # Takes half the time of np.fromiter.
        return np.frombuffer(struct.pack(layout(len(values), dtype), *values), dtype)
    except (OverflowError, struct.error) as error:
        raise InvalidRequest(f"{where} holds a number that {datatype} can't represent.") from error


# ---------------------------------------------------------------------------------------------------- from bytes


def binary_array(data: memoryview, datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """A tensor out of its bytes: a read-only view of them, at any address, except for BYTES. Raises InvalidRequest."""
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
    least = count * _LENGTH.size
    if least > len(data):
        raise InvalidRequest(f"{where} has {len(data)} bytes; {count} BYTES elements need at least {least}.")
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


# ------------------------------------------------------------------------------------------------------- and back


def binary_bytes(array: Array, datatype: str) -> bytes | memoryview:
    """A tensor's little-endian, row-major bytes; a view of the array where it has them already."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for item in array.reshape(-1):
            raw = item.encode() if isinstance(item, str) else bytes(item)
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)
    # A TypeError here is a runtime that gave another kind of number than its signature says.
    whole = np.ascontiguousarray(array.astype(DTYPES[datatype], copy=False, casting="same_kind"))
    return whole.reshape(-1).view(np.uint8).data if whole.size else b""


def json_values(array: Array, datatype: str, where: str) -> Any:
    """A tensor's elements, flat, ready for msgspec's JSON encoder. Raises InvalidRequest for bytes that are no text."""
    flat = array.reshape(-1)
    if datatype == "BYTES":
        try:
            return [item if isinstance(item, str) else bytes(item).decode() for item in flat]
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{where} is not UTF-8 text; ask for it with binary_data: true.") from error
    if datatype == "BF16":
        flat = bf16_to_fp32(flat)
    return msgspec.Raw(flat_numbers(flat))


def flat_numbers(array: Array) -> bytes:
    """The JSON of an array of numbers or truth values as one flat list.

    NaN and Infinity are as JavaScript writes them, which Python's and Triton's JSON readers take.
    """
    text = write_numbers(array.reshape(-1))
    # What isn't finite is `null` so far; no number, `true` or `false` has this letter.
    if b"n" not in text:
        return text
    odd = array[~np.isfinite(array)].tolist()
    words = [b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity" for value in odd]
    return b"".join(chain.from_iterable(zip(text.split(b"null"), [*words, b""], strict=True)))
