"""The protocol's classification extension: the best classes of an output instead of its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seaway.errors import InvalidRequest
from seaway.wire.datatypes import Array, bf16_to_fp32


def best_classes(array: Array, datatype: str, count: int, labels: Sequence[str] | None, where: str) -> Array:
    """The `count` largest of each row, best first, as b"value:index" or b"value:index:label". Raises InvalidRequest.

    As in Triton, the first dimension counts samples when there is another. Of equal values the first comes first.
    """
    scores = bf16_to_fp32(array) if datatype == "BF16" else array
    if scores.dtype.kind not in "fiu" or scores.ndim == 0:
        raise InvalidRequest(f"{where} can't be ranked: it is {datatype} with {scores.ndim} dimensions.")
    rows = scores.reshape(1, -1) if scores.ndim == 1 else scores.reshape(len(scores), _size(scores.shape[1:]))
    order = _descending(rows)[:, :count]
    ranked: Array = np.empty(order.shape, dtype=np.object_)
    for place, index in np.ndenumerate(order):
        value = rows[place[0], index]
        number = f"{float(value):f}" if scores.dtype.kind == "f" else str(int(value))
        label = f":{labels[index]}" if labels and index < len(labels) else ""
        ranked[place] = f"{number}:{index}{label}".encode()
    return ranked[0] if scores.ndim == 1 else ranked


def _size(shape: tuple[int, ...]) -> int:
    """Elements of a shape; numpy's -1 can't tell them when there is no row."""
    return int(np.prod(shape))


def _descending(rows: Array) -> Array:
    if rows.dtype.kind == "f":
        # Not a number ranks last.
        return np.argsort(-rows, axis=1, kind="stable")
    # Integers can't be negated without wrapping around: sort upwards from the other end, and turn that around.
    last = rows.shape[1] - 1
    order: Array = last - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return order
