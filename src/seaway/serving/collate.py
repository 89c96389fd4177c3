"""Rows of many requests as one batch of tensors, and the batch's outputs as each request's own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InferenceFailed, InvalidRequest, PayloadTooLarge, SeawayError
from seaway.inputs.base import Array, Feeds, Padding
from seaway.serving.predictor import Prepared
from seaway.serving.tickets import Batch, Slice, Ticket

MAX_OUTPUT_BYTES = 512 << 20
"""What the outputs of one request may take."""
Sequences = Mapping[str, tuple[int, ...]]
"""Outputs with axes that are as long as the texts, and which."""


class Rows(msgspec.Struct, eq=False):
    """A prepared request on its way through batches: what it gives to them, and what it has got back."""

    prepared: Prepared
    feeds: Feeds
    key: Hashable
    """Requests of equal keys may be stacked."""
    lengths: list[int] | None
    """Of each row, where rows may be padded."""
    width: int
    """The length that the request's own tensors have, and so its outputs."""
    n_bytes: int
    outputs: list[Array] = []
    """One for each name asked for, complete when every row has been in a batch."""


class Collator:
    """What of a version's requests may be stacked, and how."""

    def __init__(
        self, padding: Padding | None, sequences: Sequences | None, *, sized: bool = False, even: bool = False
    ) -> None:
        """`padding`: None where rows of different shapes never ride together; nor do they where `sequences` is None.

        `sized`: larger rows cost more; `even`: texts of one request must have one length, since they were padded to it.
        """
        self._padding = padding if sequences is not None else None
        self._mask = padding.mask if padding is not None else None
        self._sequences = sequences or {}
        self._sized = sized
        self._even = even

    def describe(self, prepared: Prepared) -> Rows:
        """A request as the batch lane sees it. Raises InvalidRequest when its tensors don't count the same samples."""
        (feeds,) = prepared.samples.feeds
        rows, padding = prepared.samples.rows, self._padding
        for name, array in feeds.items():
            if array.shape[:1] != (rows,):
                raise InvalidRequest(
                    f"The input {name!r} has shape {list(array.shape)} where another has {rows} samples; "
                    "in a batch, the first axis of every input counts samples."
                )
        if rows == 0:
            raise InvalidRequest("The request has no samples; send at least one.")
        lengths, width = None, 0
        if padding is not None:
            mask = feeds[padding.mask]
            width = mask.shape[1]
            if width > padding.longest:
                # However few of them the mask lets count: outputs would be padded to it again.
                raise PayloadTooLarge(f"The texts are {width} tokens long; {padding.longest} are allowed.")
            if any(feeds[name].shape[1:] != (width,) for name in padding.fills):
                raise InvalidRequest(f"The inputs {', '.join(sorted(padding.fills))} must be of one shape.")
            lengths = _lengths(mask, padding.mask)
        elif self._mask is not None:
            lengths = [max(1, feeds[self._mask].shape[1])] * rows
        elif self._even and any(not mask.all() for mask in prepared.samples.masks):
            raise InvalidRequest(
                "In the batch lane this model's texts must be equally long within a request; "
                "send them one by one, or deploy it with lane cpu."
            )
        elif self._sized:
            lengths = [row_numbers(feeds)] * rows
        shapes = tuple(
            (name, array.dtype.str, array.shape[2 if padding is not None and name in padding.fills else 1 :])
            for name, array in sorted(feeds.items())
        )
        n_bytes = sum(array.nbytes for array in feeds.values())
        return Rows(prepared, feeds, (prepared.names, shapes), lengths, width, n_bytes)

    def stack(self, batch: Batch) -> Feeds:
        """The batch's tensors, its rows in the order of its slices."""
        first: Rows = batch.slices[0].ticket.payload.rows
        return {name: self._stacked(name, batch) for name in first.feeds}

    def _stacked(self, name: str, batch: Batch) -> Array:
        parts = [(part.ticket.payload.rows.feeds[name], part) for part in batch.slices]
        padding = self._padding
        if padding is None or name not in padding.fills:
            # A copy of a single one, too: it may be a view of a body whose caller leaves, and another takes its place.
            return np.concatenate([array[part.rows] for array, part in parts])
        stacked = np.full((batch.rows, batch.width), padding.fills[name], dtype=parts[0][0].dtype)
        at = 0
        for array, part in parts:
            width = min(batch.width, array.shape[1])
            stacked[at : at + len(part), :width] = array[part.rows, :width]
            at += len(part)
        return stacked

    def scatter(self, batch: Batch, outputs: Sequence[Array]) -> list[tuple[Ticket, SeawayError]]:
        """Give each request of the batch its rows; those whose outputs are too large to keep, and what to tell them.

        Raises InferenceFailed when there aren't as many rows as went in.
        """
        refused: list[tuple[Ticket, SeawayError]] = []
        names = batch.slices[0].ticket.payload.rows.prepared.names
        for name, array in zip(names, outputs, strict=True):
            if array.shape[:1] != (batch.rows,):
                raise InferenceFailed(f"The output {name!r} has shape {list(array.shape)} for {batch.rows} samples.")
        at = 0
        for part in batch.slices:
            if part.ticket.outcome is None:
                try:
                    self._give(part, [array[at : at + len(part)] for array in outputs])
                except PayloadTooLarge as error:
                    refused.append((part.ticket, error))
                except MemoryError:
                    refused.append((part.ticket, InferenceFailed("There is no memory for this request's outputs.")))
            at += len(part)
        return refused

    def _give(self, part: Slice, arrays: Sequence[Array]) -> None:
        rows: Rows = part.ticket.payload.rows
        axes_of = (self._sequences.get(name, ()) for name in rows.prepared.names)
        named = list(zip(arrays, axes_of, strict=True))
        is_whole = len(part) == part.ticket.rows and isinstance(part.rows, slice)
        if not rows.outputs:
            n_bytes = sum(_row_bytes(array, rows.width, axes) for array, axes in named) * part.ticket.rows
            # What is there already takes nothing more.
            if n_bytes > max(MAX_OUTPUT_BYTES, sum(array.nbytes for array in arrays) if is_whole else 0):
                raise PayloadTooLarge(
                    f"The outputs of {part.ticket.rows} samples take {n_bytes} bytes; a request may have "
                    f"{MAX_OUTPUT_BYTES}; send fewer samples."
                )
        arrays = [_of_width(array, rows.width, axes) for array, axes in named]
        if is_whole:
            rows.outputs = list(arrays)
            return
        if not rows.outputs:
            rows.outputs = [np.empty((part.ticket.rows, *array.shape[1:]), array.dtype) for array in arrays]
        for whole, array in zip(rows.outputs, arrays, strict=True):
            whole[part.rows] = array


def row_numbers(feeds: Feeds) -> int:
    """How many numbers a row has in all tensors, at least one."""
    return max(1, sum(array[:1].size for array in feeds.values()))


def _lengths(mask: Array, name: str) -> list[int]:
    """How much of each row is not padding at its end.

    >>> _lengths(np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]]), "mask")
    [2, 2, 3]
    """
    width = mask.shape[1]
    if width == 0:
        raise InvalidRequest("The texts have no tokens.")
    if not ((mask == 0) | (mask == 1)).all():
        raise InvalidRequest(f"The input {name!r} says which tokens count: it may hold 0 and 1 only.")
    trailing = np.argmax(mask[:, ::-1] != 0, axis=1)
    found: list[int] = (width - trailing).tolist()
    return found


def _row_bytes(array: Array, width: int, axes: tuple[int, ...]) -> int:
    """What a row of a sequence output takes once it is `_of_width`."""
    sizes = (width if axis in axes else size for axis, size in enumerate(array.shape) if axis > 0)
    return math.prod(sizes) * array.itemsize


def _of_width(array: Any, width: int, axes: tuple[int, ...]) -> Any:
    """A sequence output as long as the request's own tensors; what a batch had no place for is padding, and zero."""
    for axis in axes:
        have = array.shape[axis]
        if have > width:
            array = array[(*[slice(None)] * axis, slice(width))]
        elif have < width:
            array = np.pad(array, [(0, width - have if one == axis else 0) for one in range(array.ndim)])
    return array
