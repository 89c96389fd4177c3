"""Long lists of numbers in JSON, read straight to an array and written straight from one.

Of 27,648 numbers, a small picture, reading takes 0.3 ms and writing 0.5; by way of Python numbers, 0.6 and 1.2.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import orjson
import simdjson

from seaway.wire.datatypes import Array

MIN_BYTES = 1 << 14
"""What is shorter is read about as fast by the usual way."""
FEW = 24
"""So many numbers are written about as fast by the usual way."""
_encode = msgspec.json.Encoder().encode


def read_floats(text: bytes, dtype: np.dtype[Any]) -> Array | None:
    """The numbers of a flat JSON array as `dtype`, FP32 or FP64; None for anything else, and for what doesn't fit.

    An integer zero with a sign, `-0`, is zero without one.
    """
    if text.find(b"[", 1) != -1:
        return None  # nested: `as_buffer` would forget how
    try:
        parsed = simdjson.Parser().parse(text)
        if not isinstance(parsed, simdjson.Array):
            return None
        numbers = np.frombuffer(parsed.as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, RuntimeError, MemoryError):
        return None
    with np.errstate(over="ignore"):
        array = numbers.astype(dtype)
    return array if np.isfinite(array).all() else None


def write_numbers(array: Array) -> bytes:
    """The elements of an array of numbers or truth values as JSON, nested as it is; `null` for what isn't finite.

    Both ways write the digits that give the same FP64 again.

    >>> write_numbers(np.array([[0.1, float("nan")]]))
    b'[[0.1,null]]'
    """
    if array.size <= FEW:
        return _encode(array.tolist())
    # FP32's own digits would be fewer, but read as FP64 they are another number.
    dtype = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    return orjson.dumps(array.astype(dtype, order="C", copy=False), option=orjson.OPT_SERIALIZE_NUMPY)
