"""The raw form of the binary extension: the body is the bytes of the model's only input, one sample of it."""

from __future__ import annotations

import math

import numpy as np

from seaway.errors import InvalidRequest
from seaway.types import TensorSpec
from seaway.wire.datatypes import Array, dtype_of
from seaway.wire.tensors import binary_array


def raw_array(body: memoryview, spec: TensorSpec) -> Array:
    """The body as `spec` describes it; a BYTES input is one element, the body itself. Raises InvalidRequest."""
    dtype = dtype_of(spec.datatype, f"The input {spec.name!r}")
    if spec.datatype == "BYTES":
        element: Array = np.empty(1, dtype=np.object_)
        element[0] = bytes(body)
        return element.reshape((1,) * max(len(spec.shape), 1))
    return binary_array(body, spec.datatype, dtype, _shape(spec, len(body), dtype.itemsize), "The body")


def _shape(spec: TensorSpec, size: int, itemsize: int) -> tuple[int, ...]:
    # A leading variable dimension counts samples, and the raw form is one sample; one other may follow the size.
    shape = [1, *spec.shape[1:]] if spec.shape[:1] == (-1,) and len(spec.shape) > 1 else list(spec.shape)
    variable = [axis for axis, extent in enumerate(shape) if extent == -1]
    if len(variable) > 1:
        raise InvalidRequest(f"{spec.name!r} has {len(variable)} variable dimensions; the raw form can tell one.")
    if variable:
        row = itemsize * math.prod(extent for extent in shape if extent != -1)
        if row == 0 or size % row:
            raise InvalidRequest(f"The body has {size} bytes, no multiple of {row}, one row of {spec.name!r}.")
        shape[variable[0]] = size // row
    return tuple(shape)
