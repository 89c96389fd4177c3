"""Protocol Buffers as they are on the wire, for ONNX files of which only a few fields are to be read or changed.

A message is a series of fields, each a key (number and wire type) and a value.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 70


def fields(message: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, wire type, and where the field begins, its value begins and both end. Raises ValueError."""
    at = 0
    while at < len(message):
        start = at
        key, begin = _varint(message, at)
        wire = key & 7
        if wire == BYTES:
            length, begin = _varint(message, begin)
            at = begin + length
        elif wire == VARINT:
            _, at = _varint(message, begin)
        elif wire in {FIXED32, FIXED64}:
            at = begin + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"Byte {start} of a message is no field.")
        if at > len(message):
            raise ValueError(f"The field at byte {start} of a message is cut off.")
        yield key >> 3, wire, start, begin, at


def field(number: int, value: bytes | memoryview) -> list[bytes | memoryview]:
    """The parts of a field of bytes, a text or a message."""
    return [encode_number(number << 3 | BYTES), encode_number(len(value)), value]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift >= _MAX_VARINT_BITS:
            raise ValueError("A number of a message has no end.")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def encode_number(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
