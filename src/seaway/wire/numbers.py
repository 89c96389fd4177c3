"""Long lists of numbers in JSON, read straight to an array.

For a picture of 27,648 numbers that takes 0.3 ms; as Python numbers first, 0.6 ms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simdjson

from seaway.wire.datatypes import Array

MIN_BYTES = 1 << 14
"""What is shorter is read about as fast by the usual way."""


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
