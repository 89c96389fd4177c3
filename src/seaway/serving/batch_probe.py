"""Looks, before a version is served in batches, whether its samples may ride together, and where lengths show.

A signature says that the first dimension varies, not that it counts samples, nor that a sample's answer is its own. A
model that subtracts the mean of its batch would give everybody answers that depend on strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog

from seaway.errors import InvalidRequest, WarmUpFailed
from seaway.inputs.base import Array, Feeds, Padding
from seaway.runtimes.base import DeviceSession
from seaway.serving.collate import Sequences
from seaway.serving.predictor import Prepared

log = structlog.get_logger()

_WIDTHS = (6, 11)
_ALLOWED = {"fp32": 0.01}
_ALLOWED_OTHERWISE = 0.1
"""How much a sample's answer may change by its company, as a part of the largest number in it."""
_ORDER = (0, 1, 1, 0, 1)
"""Of the two samples in a batch; not the same from behind."""
_TOGETHER = "Its samples can't ride together: {}. Deploy it with lane cpu."


def check_rows_apart(session: DeviceSession, sample: Prepared, padding: Padding | None) -> None:
    """Raises WarmUpFailed for a model whose answer to a sample depends on what else is in its batch."""
    names = [output.name for output in session.signature.outputs]
    first = {name: array[:1] for name, array in sample.samples.feeds[0].items()}
    second = {name: _other(array, padding, name) for name, array in first.items()}
    try:
        alone = [_run(session, feeds, names) for feeds in (first, second)]
    except InvalidRequest:
        second, alone = first, [_run(session, first, names)] * 2  # a made-up sample isn't always a sound one
    feeds = {name: np.concatenate([(first, second)[number][name] for number in _ORDER]) for name in first}
    together = _run(session, feeds, names)
    for at, name in enumerate(names):
        found = together[at]
        if found.shape != (len(_ORDER), *alone[0][at].shape[1:]):
            shapes = f"{list(alone[0][at].shape)} for one sample, {list(found.shape)} for {len(_ORDER)}"
            raise WarmUpFailed(_TOGETHER.format(f"the output {name!r} has shape {shapes}"))
        for row, number in enumerate(_ORDER):
            off = _difference(alone[number][at][0], found[row])
            if off > _ALLOWED.get(session.dtype, _ALLOWED_OTHERWISE):
                what = f"in company, the output {name!r} of a sample is another than alone (by {off:.0%})"
                raise WarmUpFailed(_TOGETHER.format(what))


def find_sequences(session: DeviceSession, sample: Prepared, padding: Padding | None) -> Sequences | None:
    """The axes of each output that are as long as the texts; None where that can't be said, so that only texts of one
    length may ride together.
    """
    if padding is None:
        return {}
    names = [output.name for output in session.signature.outputs]
    widths = [min(width, padding.longest) for width in _WIDTHS]
    shapes = [
        [array.shape for array in _run(session, _of_width(sample.samples.feeds[0], padding, width), names)]
        for width in widths
    ]
    sequences: dict[str, tuple[int, ...]] = {}
    for name, short, long in zip(names, *shapes, strict=True):
        pairs = list(zip(short, long, strict=True)) if len(short) == len(long) else [(0, 1)]
        changing = tuple(axis for axis, (one, other) in enumerate(pairs) if one != other)
        if any(pairs[axis] != tuple(widths) for axis in changing):
            log.info("batch.one_length_at_a_time", output=name, shapes=[list(short), list(long)])
            return None
        if changing:
            sequences[name] = changing
    return sequences


def _run(session: DeviceSession, feeds: Feeds, names: Sequence[str]) -> list[Array]:
    session.check(feeds)
    outputs: list[Array] = session.collect(session.launch(session.stage(feeds), names))
    return outputs


def _of_width(feeds: Feeds, padding: Padding, width: int) -> Feeds:
    made = {name: array[:1] for name, array in feeds.items()}
    for name in padding.fills:
        array = made[name]
        made[name] = np.ones((1, width), array.dtype) if name == padding.mask else np.resize(array, (1, width))
    return made


def _other(array: Array, padding: Padding | None, name: str) -> Array:
    """Another sample of the same shape: smaller ids, other numbers; a mask stays as it is."""
    if padding is not None and name == padding.mask:
        return array
    other: Any = array
    if array.dtype.kind == "b":
        other = ~array
    elif array.dtype.kind in "iu":
        other = np.where(array > 0, array - 1, array)
    elif array.dtype.kind == "f":
        other = array * 0.5 + 0.25
    return other.astype(array.dtype, copy=False)  # type: ignore[no-any-return]


def _difference(one: Array, other: Array) -> float:
    """The largest difference, as a part of the largest number in either.

    >>> _difference(np.array([1.0, 4.0]), np.array([1.0, 3.0]))
    0.25
    """
    if one.dtype.kind not in "fiub":
        return float((one != other).any())
    first, second = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    apart = (first != second) & ~(np.isnan(first) & np.isnan(second))
    first, second = first[apart], second[apart]
    if not first.size:
        return 0.0
    if not (np.isfinite(first) & np.isfinite(second)).all():
        return 1.0
    return float(np.abs(first - second).max() / max(np.nanmax(np.abs(one)), np.nanmax(np.abs(other))))
