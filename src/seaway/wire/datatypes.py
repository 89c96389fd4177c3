"""The Open Inference Protocol's datatypes as numpy knows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from seaway.errors import InvalidRequest

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("int8"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    # numpy has no bfloat16: its two bytes travel as they are.
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype("object"),
}  # fmt: skip


def dtype_of(datatype: str, where: str) -> np.dtype[Any]:
    """The numpy type of a datatype's elements. Raises InvalidRequest for an unknown one."""
    found = DTYPES.get(datatype)
    if found is None:
        raise InvalidRequest(f"{where}.datatype: {datatype[:40]!r} is no datatype; there are {', '.join(DTYPES)}.")
    return found


def bf16_to_fp32(array: Array) -> Array:
    """The numbers behind BF16's two bytes, which are the upper half of an FP32.

    >>> bf16_to_fp32(np.array([0x3F80, 0xC000], dtype=np.uint16)).tolist()
    [1.0, -2.0]
    """
    wide: Array = (array.astype(np.uint32) << 16).view(np.float32)
    return wide
