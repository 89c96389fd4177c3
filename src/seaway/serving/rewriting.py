"""Whether a version is served with its graph as it was exported or rewritten: measured once, at deploy (ADR 12)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from seaway.errors import SeawayError
from seaway.runtimes import operators, rewriter
from seaway.runtimes.base import Array
from seaway.serving import parity
from seaway.serving.calibration import WORTH, median
from seaway.serving.predictor import Predictor
from seaway.types import Rewriting

log = structlog.get_logger()

_ALLOWED = 1e-5
"""Of the largest number of an answer, or of 1: how far a number may be from the exported graph's."""
_ALIKE = 0.95
"""Cosine with the exported graph's answers, where somebody has agreed to others: what is below is no rounding."""
_ENOUGH_SECONDS, _MANY_RUNS, _FEW_RUNS = 0.2, 500, 3
_TOO_LONG_SECONDS = 5.0


def try_rewritten(
    exported: Predictor, package: Path, open_rewritten: Callable[[], Predictor], *, uncertain: bool
) -> tuple[Predictor, Rewriting | None]:
    """The predictor to serve with, and what was found; None where there is nothing to rewrite.

    `uncertain`: also where the graph rounds, so that the last bit of a number may change an answer visibly.
    """
    models = rewriter(exported.spec.runtime or "")
    if models is None:
        return exported, None
    try:
        what = models.describe(package, exported.spec)
        if not what:
            return exported, None
        other = open_rewritten()
        differs, off = _difference(exported, other)
    except (SeawayError, MemoryError) as error:
        log.warning("worker.graph_not_rewritten", reason=str(error))
        return exported, None
    doubt = models.why_uncertain(operators(package, exported.spec).all)
    before, after = _times(exported, other)
    if after > before * WORTH:
        why = "it is no faster so"
    elif differs and not (doubt and uncertain and off.min_cosine >= _ALIKE):
        why = doubt or differs
    elif doubt and not uncertain:
        why = doubt
    else:
        why = ""
    found = Rewriting(
        not why, what, before, after, off.max_difference if math.isfinite(off.max_difference) else None, why
    )
    log.info("worker.graph", **{name: getattr(found, name) for name in found.__dataclass_fields__})
    return (exported if why else other), found


def _difference(one: Predictor, other: Predictor) -> tuple[str, parity.Parity]:
    """What tells the answers of two predictors apart, as a part of a sentence, and how much that is."""
    if one.signature != other.signature:
        return "its signature would be another", parity.combine([])
    names = [spec.name for spec in one.signature.outputs]
    found, measured = "", []
    for feeds in parity.trial_feeds(one):
        try:
            expected = one.session.run(feeds, names, None)
        except SeawayError:
            continue  # an input it has no use for
        answers = other.session.run(feeds, names, None)
        for name, first, second in zip(names, expected, answers, strict=True):
            if first.dtype.kind == "f" == second.dtype.kind:
                measured.append(parity.compare([first], [second]))
            if not _close(first, second):
                found = f"its answers ({name!r}) would be others"
    return found, parity.combine(measured)


def _close(one: Array, other: Array) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    finite = np.abs(one[np.isfinite(one)])
    allowed = _ALLOWED * max(1.0, float(finite.max(initial=0.0)))
    return bool(np.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True))


def _times(one: Predictor, other: Predictor) -> tuple[int, int]:
    """Nanoseconds of CPU time that a run takes with each, in turns: the machine is never the same for long."""
    names = [spec.name for spec in one.signature.outputs]
    feeds = _typical(one, names)
    taken: list[tuple[int, int]] = []
    began = time.monotonic()
    for predictor in (one, other):
        predictor.session.run(feeds, names, None)
    while True:
        start = time.thread_time_ns()
        one.session.run(feeds, names, None)
        middle = time.thread_time_ns()
        other.session.run(feeds, names, None)
        taken.append((middle - start, time.thread_time_ns() - middle))
        elapsed = time.monotonic() - began
        if len(taken) >= _MANY_RUNS or elapsed > _TOO_LONG_SECONDS:
            break
        if len(taken) >= _FEW_RUNS and elapsed > _ENOUGH_SECONDS:
            break
    before, after = (median(times) for times in zip(*taken, strict=True))
    return before, after


def _typical(predictor: Predictor, names: list[str]) -> parity.Feeds:
    """The sample, or a larger one where it was made up as small as can be and the model takes that."""
    (sample, *_) = predictor.prepare(predictor.payload(predictor.sample())).samples.feeds
    larger = parity.enlarged(predictor, sample)
    if larger is None or any(array.size > larger[name].size for name, array in sample.items()):
        return sample
    try:
        predictor.session.run(larger, names, None)
    except SeawayError:
        return sample
    return larger
