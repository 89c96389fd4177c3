"""JSON values <-> tensors: strict, and never silently rounded to infinity or wrapped around."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.inputs.base import Array
from seaway.types import TensorSpec

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"), "BYTES": np.dtype("object"),
    "UINT8": np.dtype("uint8"), "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"), "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"), "INT16": np.dtype("int16"), "INT32": np.dtype("int32"), "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"), "FP32": np.dtype("float32"), "FP64": np.dtype("float64"),
}  # fmt: skip
MAX_RANK = 32
_FEW = 50


def nesting(value: Any) -> int:
    """How many lists deep the first element is, up to one more than any tensor has."""
    depth = 0
    while isinstance(value, list) and depth <= MAX_RANK:
        depth += 1
        value = value[0] if value else None
    return depth


def to_array(value: Any, datatype: str, rank: int, *, where: str, allow_nonfinite: bool = False) -> Array:
    """Nested lists, `rank` deep, as a tensor. `where` is what messages call it. Raises InvalidRequest.

    >>> to_array([[1, 2.5]], "FP32", 2, where="inputs")
    array([[1. , 2.5]], dtype=float32)
    """
    if rank > MAX_RANK:
        raise InvalidRequest(f"{where} is nested {rank} deep; a tensor has at most {MAX_RANK} dimensions.")
    dtype = DTYPES[datatype]
    # Numpy alone would take "1.5", true and null for numbers.
    try:
        checked = msgspec.convert(value, _nested(dtype.kind, rank, allow_nonfinite))
    except (msgspec.ValidationError, OverflowError) as error:
        raise InvalidRequest(explain(str(error), where)) from error
    try:
        with np.errstate(over="ignore"):
            array = np.array(checked, dtype=dtype)
    except OverflowError as error:
        raise InvalidRequest(f"{where} holds a number that {datatype} can't represent.") from error
    except ValueError as error:
        raise InvalidRequest(f"{where} has rows of different lengths; a tensor needs equal ones.") from error
    if array.ndim != rank:
        # Numpy keeps lists of unequal length as objects where the elements are objects anyway.
        raise InvalidRequest(f"{where} has rows of different lengths; a tensor needs equal ones.")
    if not allow_nonfinite:
        check_finite(array, where=where, datatype=datatype)
    return array


def check_finite(array: Array, *, where: str, datatype: str) -> None:
    """Refuse NaN and infinities, whether sent so or too large for the datatype."""
    if array.dtype.kind != "f":
        return
    # Of few numbers, their sum is had sooner than a look at each; it may overflow, and so doesn't refuse.
    if array.size <= _FEW and math.isfinite(sum(array.reshape(-1).tolist())):
        return
    if not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        raise InvalidRequest(
            f"{where}: element {first} is not a finite {datatype} number; this model takes only finite numbers."
        )


def check_shape(shape: tuple[int, ...], spec: TensorSpec, *, where: str) -> None:
    """Compare with the signature. An empty declared shape stands for an undeclared one, which the runtime checks."""
    wanted = spec.shape
    if wanted == () or (len(shape) == len(wanted) and all(w in {-1, s} for s, w in zip(shape, wanted, strict=True))):
        return
    any_size = " (-1 is any size)" if -1 in wanted else ""
    raise InvalidRequest(f"{where} has shape {list(shape)}; {spec.name!r} takes {list(wanted)}{any_size}.")


def explain(message: str, where: str) -> str:
    """msgspec's message with the place as the caller wrote it.

    >>> explain("Expected `float`, got `str` - at `$[0][2]`", "inputs")
    'inputs[0][2]: expected a number, got a string.'
    """
    text, _, path = message.partition(" - at `$")
    for name, words in _WORDS.items():
        text = re.sub(rf"`{name}( \| null)?`", words, text)
    return f"{where}{path.rstrip('`')}: {text[:1].lower()}{text[1:]}."


_WORDS = {
    "float": "a number", "int": "an integer", "bool": "a boolean", "str": "a string",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip


@cache
def _nested(kind: str, rank: int, null: bool) -> Any:
    element: Any = {"b": bool, "O": str, "f": float | None if null else float}.get(kind, int)
    for _ in range(rank):
        element = list[element]
    return element
