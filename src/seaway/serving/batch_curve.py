"""What batches of a version cost on this device: time and memory by rows and length, measured once, at deploy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import structlog

from seaway.errors import OutOfMemory
from seaway.inputs.base import Array, Padding
from seaway.runtimes.base import DeviceSession
from seaway.serving.batch_limits import CurvePoint
from seaway.serving.predictor import Prepared

log = structlog.get_logger()

_WIDTHS = (8, 32, 128, 512)
_ENOUGH_SECONDS = 3.0
_REPEATS = 2
_FEW_POINTS, _FEW_SECONDS = 4, 10.0
"""So few are measured even if they should take so much longer."""


def measure_curve(
    session: DeviceSession, sample: Prepared, padding: Padding | None, *, max_rows: int, width: int
) -> tuple[CurvePoint, ...]:
    """Time and memory of batches, from single rows up to `max_rows`, of lengths up to `width`; without `padding`, all
    are as long as the sample, and `width` says how long that is.

    Batches that would take longer than what is left of some seconds are not run; the cost model reaches beyond.
    Where one runs out of memory, larger ones of that length are not tried.
    """
    began = time.monotonic()
    points: list[CurvePoint] = []
    per_token = 0.0
    for length in _widths(padding, width):
        for rows in _sizes(max_rows):
            left = _ENOUGH_SECONDS - (time.monotonic() - began)
            # One slow moment at the beginning is no measure of all that follows.
            patience = _FEW_SECONDS if len(points) < _FEW_POINTS else 0.0
            if points and per_token * rows * length * (_REPEATS + 1) > left + patience:
                break
            point = _measure(session, sample, padding, rows, length)
            points.append(point)
            if not np.isfinite(point.seconds):
                break
            per_token = point.seconds / point.tokens
    log.info("batch.measured", points=len(points), seconds=round(time.monotonic() - began, 2))
    return tuple(points)


def _widths(padding: Padding | None, width: int) -> Sequence[int]:
    return (width,) if padding is None else (*(one for one in _WIDTHS if one < width), width)


def _sizes(max_rows: int) -> Iterator[int]:
    rows = 1
    while rows < max_rows:
        yield rows
        rows *= 4
    yield max_rows


def _measure(session: DeviceSession, sample: Prepared, padding: Padding | None, rows: int, width: int) -> CurvePoint:
    feeds = {name: _tiled(array, name, padding, rows, width) for name, array in sample.samples.feeds[0].items()}
    seconds = []
    try:
        for _ in range(_REPEATS):
            began = time.monotonic()
            session.collect(session.launch(session.stage(feeds), sample.names))
            seconds.append(time.monotonic() - began)
    except OutOfMemory:
        return CurvePoint(rows, width, float("inf"), session.peak_bytes())
    return CurvePoint(rows, width, min(seconds), session.peak_bytes())


def _tiled(array: Array, name: str, padding: Padding | None, rows: int, width: int) -> Array:
    """So many copies of one sample's row; where it may be padded, repeated to that length instead."""
    row = array[:1]
    if padding is not None and name in padding.fills:
        row = np.resize(row, (1, width)) if name != padding.mask else np.ones((1, width), row.dtype)
    return np.repeat(row, rows, axis=0)
