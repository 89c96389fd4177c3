"""The forms of nested lists, and numbers packed into tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from types import GenericAlias
from typing import Any

import msgspec
import numpy as np

from seaway.inputs.arrays import DTYPES
from seaway.inputs.base import Array, Form, Samples
from seaway.types import MAX_BATCH_SIZE, Signature, TensorSpec

_ELEMENTS = {"b": bool, "i": int, "u": int, "f": float}
"""What JSON numbers become, by numpy's kind; text is no number."""


@lru_cache(256)
def layout(count: int, dtype: np.dtype[Any]) -> str:
    """`count` numbers of a type as module `struct` writes them, which refuses what is out of the type's range.

    >>> layout(3, np.dtype("int64"))
    '=3q'
    """
    # The standard sizes: of native ones, struct lets floats become infinite. Only its `long` has another size then.
    return f"={count}{dtype.char.replace('l', 'q').replace('L', 'Q')}"


def packed(values: Sequence[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array | None:
    """Numbers in row-major order as a tensor; None when there are too few, or one doesn't fit the type."""
    try:
        # Takes a third of the time of np.array.
        return np.ndarray(shape, dtype, struct.pack(layout(len(values), dtype), *values))
    except (struct.error, OverflowError, TypeError):
        return None


# --------------------------------------------------------------------------- tensors as nested lists


def tensor_forms(signature: Signature, limit: int | None) -> tuple[Form, ...]:
    """Nested lists for a graph of one input, an object of them by name for several."""
    specs = signature.inputs
    if not all(spec.shape and DTYPES[spec.datatype].kind in _ELEMENTS for spec in specs):
        return ()
    batchable = signature.batchable
    if len(specs) > 1:
        return (_named_tensors(specs, batchable=batchable),) if all(len(s.shape) > batchable for s in specs) else ()
    [spec] = specs
    rank = len(spec.shape)

    def bare(value: Any, n_keys: int | None) -> Samples | None:
        array = None if n_keys else _tensor(value, spec, batchable=batchable)
        return None if array is None else Samples(({spec.name: array},), 1, True, batchable)

    def several(value: Any, n_keys: int | None) -> Samples | None:
        array = None if n_keys or not 0 < len(value) <= (limit or MAX_BATCH_SIZE) else _tensor(value, spec)
        return None if array is None else Samples(({spec.name: array},), len(value), False)

    if not batchable:
        return (Form(b"[" * rank, _nested(spec, rank), bare),)
    forms = [Form(b"[" * rank, _nested(spec, rank), several)]
    if rank > 1:
        forms.append(Form(b"[" * (rank - 1), _nested(spec, rank - 1), bare))
    return tuple(forms)


def _named_tensors(specs: tuple[TensorSpec, ...], *, batchable: bool) -> Form:
    fields = [(f"f{number}", _nested(spec, len(spec.shape) - batchable)) for number, spec in enumerate(specs)]
    names = {f"f{number}": spec.name for number, spec in enumerate(specs)}
    structure = msgspec.defstruct("Sample", fields, rename=names, forbid_unknown_fields=True, gc=False)

    def read(sample: Any, n_keys: int | None) -> Samples | None:
        if n_keys is not None and n_keys != len(specs):
            return None
        feeds = {}
        for spec, value in zip(specs, msgspec.structs.astuple(sample), strict=True):
            array = _tensor(value, spec, batchable=batchable)
            if array is None:
                return None
            feeds[spec.name] = array
        return Samples((feeds,), 1, True, batchable)

    return Form(b"{", structure, read)


def _nested(spec: TensorSpec, depth: int) -> Any:
    element: Any = _ELEMENTS[DTYPES[spec.datatype].kind]
    for _ in range(depth):
        element = GenericAlias(list, (element,))
    return element


def _tensor(values: Any, spec: TensorSpec, *, batchable: bool = False) -> Array | None:
    """Nested lists as `spec` takes them; `batchable`: they are one sample, without the axis that counts them."""
    wanted = spec.shape[batchable:]
    shape = [1] if batchable else []
    for depth, size in enumerate(wanted):
        if not values:
            return None
        if depth:
            lengths = set(map(len, values))
            if len(lengths) != 1:
                return None
            shape.append(lengths.pop())
            values = list(chain.from_iterable(values))
        else:
            shape.append(len(values))
        if size not in {-1, shape[-1]}:
            return None
    return packed(values, DTYPES[spec.datatype], tuple(shape))
