"""Whether a version is served with its graph as it was exported or rewritten: measured once, at deploy (ADR 12)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import structlog

from seaway.errors import SeawayError
from seaway.runtimes import rewriter
from seaway.runtimes.base import Array, Rewrite, RunHandle
from seaway.serving import parity
from seaway.serving.calibration import WORTH, median
from seaway.serving.predictor import Predictor
from seaway.serving.weight_files import trial
from seaway.types import Rewriting

log = structlog.get_logger()

_ALIKE = 0.95
"""Cosine with the exported graph's answers, where somebody has agreed to others: what is below is no rounding."""
_ENOUGH_SECONDS, _MANY_RUNS, _FEW_RUNS = 0.2, 500, 3
_MOST_SECONDS = 5.0
"""Runs that are not over by then are ended: the version is served as it was exported."""


def try_rewritten(
    exported: Predictor, package: Path, open_rewritten: Callable[[], Predictor], note: Path | None, *, uncertain: bool
) -> tuple[Predictor, Rewriting | None]:
    """The predictor to serve with, and what was found; None where there is nothing to rewrite, or it couldn't be tried.

    `note` is a file that is there while it is tried: where it is there before, a process has died of that.
    `uncertain`: also where the graph rounds, so that the last bit of a number may change an answer visibly.
    """
    models = rewriter(exported.spec.runtime or "")
    if models is None:
        return exported, None
    try:
        rewrite = models.look(package, exported.spec)
        if rewrite is None:
            return exported, None
        with trial(note), parity.limited(_MOST_SECONDS) as handle:
            predictor, found = _measure(exported, open_rewritten(), rewrite, handle, uncertain=uncertain)
    except (SeawayError, MemoryError, OSError) as error:
        log.warning("worker.graph_not_rewritten", reason=str(error) or type(error).__name__)
        return exported, None
    except Exception:  # whatever it is, the version can be served as it was exported
        log.exception("worker.graph_not_rewritten")
        return exported, None
    log.info("worker.graph", **asdict(found))
    return predictor, found


def _measure(
    exported: Predictor, other: Predictor, rewrite: Rewrite, handle: RunHandle, *, uncertain: bool
) -> tuple[Predictor, Rewriting]:
    """Raises Cancelled where it takes too long, and what running raises."""
    before, after = _times(exported, other, handle)
    differs, alike, off = "", True, parity.combine([])
    compared = after <= before * WORTH
    if compared:
        differs, alike, off = _difference(exported, other, handle)
        why = rewrite.doubt or differs
        if uncertain and alike and off.min_cosine >= _ALIKE:
            why = ""
        elif not alike:
            why = differs
    else:
        why = "it is no faster so"
    most = off.max_difference if math.isfinite(off.max_difference) else None
    return (exported if why else other), Rewriting(
        not why, rewrite.what, before, after, most, why, compared, rewrite.doubt
    )  # fmt: skip


def _difference(one: Predictor, other: Predictor, handle: RunHandle) -> tuple[str, bool, parity.Parity]:
    """What tells the answers of two predictors apart, as a part of a sentence; whether that are only FP numbers; by how
    much they differ.
    """
    if one.signature != other.signature:
        return "its signature would be another", False, parity.combine([])
    names = [spec.name for spec in one.signature.outputs]
    found, alike, measured = "", True, []
    for feeds in parity.trial_feeds(one):
        try:
            expected = one.session.run(feeds, names, handle)
        except SeawayError:
            if handle.terminated:
                raise
            continue  # an input it has no use for
        answers = other.session.run(feeds, names, handle)
        for name, first, second in zip(names, expected, answers, strict=True):
            if parity.close(first, second):
                continue
            found = f"its answers ({name!r}) would be others"
            alike = alike and first.dtype == second.dtype and first.shape == second.shape and first.dtype.kind == "f"
        measured += _parities(expected, answers)
    if not measured:
        return "nothing was found to compare it with", False, parity.combine([])
    return found, alike, parity.combine(measured)


def _parities(expected: Sequence[Array], answers: Sequence[Array]) -> list[parity.Parity]:
    """Of numbers; those that are not FP are equal or not."""
    pairs = zip(expected, answers, strict=True)
    return [
        parity.compare([first], [second]) if first.dtype.kind == "f" == second.dtype.kind else parity.combine([])
        for first, second in pairs
    ]


def _times(one: Predictor, other: Predictor, handle: RunHandle) -> tuple[int, int]:
    """Nanoseconds of CPU time that a run takes with each, in turns: the machine is never the same for long."""
    names = [spec.name for spec in one.signature.outputs]
    feeds = parity.typical(one, names, handle)
    for predictor in (one, other):
        predictor.session.run(feeds, names, handle)
    taken: list[tuple[int, int]] = []
    began = time.monotonic()
    while len(taken) < _FEW_RUNS or (len(taken) < _MANY_RUNS and time.monotonic() - began < _ENOUGH_SECONDS):
        start = time.thread_time_ns()
        one.session.run(feeds, names, handle)
        middle = time.thread_time_ns()
        other.session.run(feeds, names, handle)
        taken.append((middle - start, time.thread_time_ns() - middle))
    before, after = (median(times) for times in zip(*taken, strict=True))
    return before, after
