"""How far the answers of a device and its dtype are from those of the same model on the CPU in fp32."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seaway.errors import SeawayError
from seaway.packages import PackageSpec
from seaway.runtimes import runtime
from seaway.runtimes.base import Array, DeviceSession, RunHandle

if TYPE_CHECKING:
    from seaway.serving.predictor import Predictor

Feeds = Mapping[str, Array]
_ALLOWED = 1e-5
"""How far a number may be from another that only the order of sums makes different: a part of the answer's largest."""
_OUTLIER = 1e3
"""Times the median: what is larger (a mask, say) doesn't count as an answer's largest number."""
_SIZE = 16
"""Of dimensions that may have any: tokens of a short text, pixels that most networks for pictures can halve often."""
_FEW = 100
_MANY_NUMBERS = 1 << 18
_ENOUGH_SECONDS = 2.0
_ROWS = (1, 2, 3, 17)
"""Of the inputs that are compared: kernels have other code for one row, for few, and for what is left over."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Of all outputs of all runs that were compared."""

    max_difference: float
    """The largest difference of two numbers; infinite where one of them is no number and the other is."""
    min_cosine: float
    """The smallest cosine of a sample's output with the one it is compared to; 1 for the same direction."""
    rows: int

    def within(self, *, max_difference: float, min_cosine: float) -> bool:
        """True when neither measure is worse than its limit."""
        return self.max_difference <= max_difference and self.min_cosine >= min_cosine


def compare(expected: Sequence[Array], found: Sequence[Array]) -> Parity:
    """Outputs of one run against those of another, sample by sample along the first axis.

    >>> compare([np.array([[3.0, 4.0]])], [np.array([[3.0, 4.5]])])
    Parity(max_difference=0.5, min_cosine=0.9984603532054123, rows=1)
    """
    difference, cosine = 0.0, 1.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return Parity(float("inf"), -1.0, len(one))
        if one.size:
            difference = max(difference, _difference(one, other))
            cosine = min(cosine, _cosine(one, other))
    return Parity(difference, cosine, len(expected[0]) if expected and expected[0].ndim else 1)


def combine(parts: Sequence[Parity]) -> Parity:
    """The worst of several; of none, that nothing differs."""
    return Parity(
        max((part.max_difference for part in parts), default=0.0),
        min((part.min_cosine for part in parts), default=1.0),
        sum(part.rows for part in parts),
    )


def close(one: Array, other: Array, least: float = 1.0) -> bool:
    """Whether two answers differ by last digits at most: 1e-5 of the largest number, or of `least`.

    What isn't FP is equal.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    sizes = np.abs(one[np.isfinite(one)])
    usual = float(np.median(sizes)) if sizes.size else 0.0
    largest = float(sizes[sizes <= _OUTLIER * usual].max(initial=0.0))
    return bool(np.allclose(other, one, rtol=_ALLOWED, atol=_ALLOWED * max(least, largest), equal_nan=True))


def against_cpu(session: DeviceSession, package: Path, spec: PackageSpec, runs: Sequence[Feeds]) -> Parity:
    """`session` against the same package on the CPU in fp32, which is loaded for this and let go. Called at deploy.

    Raises what loading and running raise.
    """
    names = [output.name for output in session.signature.outputs]
    reference = runtime(spec.runtime or "").load(package, spec, threads=1, device="cpu")
    return combine([compare(reference.run(feeds, names, None), session.run(feeds, names, None)) for feeds in runs])


def trial_feeds(predictor: Predictor) -> Iterator[Feeds]:
    """Inputs to try two sessions of a model with, some of which it may refuse.

    The sample and larger ones, with its own numbers and with random ones, in batches of several sizes where there are
    any. What tells most comes first: there are no more once that took `_ENOUGH_SECONDS`, so that a slow model can still
    be deployed.
    """
    until = time.monotonic() + _ENOUGH_SECONDS
    for feeds in _all_feeds(predictor):
        yield feeds
        if time.monotonic() > until:
            return


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[RunHandle]:
    """A handle for runs that are ended, with Cancelled, once so much time has passed."""
    handle = RunHandle()
    timer = threading.Timer(seconds, handle.terminate)
    timer.daemon = True
    timer.start()
    try:
        yield handle
    finally:
        timer.cancel()


def _all_feeds(predictor: Predictor) -> Iterator[Feeds]:
    (sample, *_) = predictor.prepare(predictor.payload(predictor.sample())).samples.feeds
    chance = np.random.default_rng(0)
    grows = all(spec.shape[:1] == (-1,) for spec in predictor.signature.inputs)
    numbers = sum(array.size for array in sample.values())
    for rows in _ROWS if grows else (1,):
        if rows > 1 and rows * numbers > _MANY_NUMBERS:
            return  # of so many that kernels have other code for few rows no more, and that memory matters
        several = {name: np.repeat(array[:1], rows, axis=0) if grows else array for name, array in sample.items()}
        larger = enlarged(predictor, several)
        for feeds in (several,) if larger is None else (larger, several):
            yield from _others(feeds, chance)
            yield feeds


def enlarged(predictor: Predictor, feeds: Feeds) -> Feeds | None:
    """`feeds` with `_SIZE` in place of each dimension that is variable, rows apart; None where none is, of texts,
    and where that would be too much.

    Whole numbers become 1, which token ids, masks and types of tokens may be.
    """
    specs = predictor.signature.inputs
    if any(spec.name not in feeds or feeds[spec.name].dtype.kind not in "fiub" for spec in specs):
        return None
    if all(-1 not in spec.shape[1:] for spec in specs):
        return None
    shapes = {
        spec.name: (*feeds[spec.name].shape[:1], *(_SIZE if size == -1 else size for size in spec.shape[1:]))
        for spec in specs
    }
    if sum(map(math.prod, shapes.values())) > _MANY_NUMBERS:
        return None
    return {name: np.ones(shape, feeds[name].dtype) for name, shape in shapes.items()}


def typical(predictor: Predictor, names: Sequence[str], handle: RunHandle) -> Feeds:
    """The sample, or a larger one where it was made up as small as can be and the model takes that."""
    (sample, *_) = predictor.prepare(predictor.payload(predictor.sample())).samples.feeds
    larger = enlarged(predictor, sample)
    if larger is None or any(array.size > larger[name].size for name, array in sample.items()):
        return sample
    try:
        predictor.session.run(larger, names, handle)
    except SeawayError:
        return sample
    return larger


def _others(feeds: Feeds, chance: np.random.Generator) -> Iterator[Feeds]:
    """The same shapes with random numbers: fractions, whole and half ones, and whole numbers for whole ones."""
    kinds = {array.dtype.kind for array in feeds.values()}
    if "f" in kinds:
        yield {
            name: np.asarray(chance.standard_normal(array.shape), array.dtype) if array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }
        yield {
            name: np.asarray(chance.integers(-16, 16, array.shape) / 2, array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in feeds.items()
        }
    if kinds & {"i", "u"}:
        yield {
            name: np.asarray(chance.integers(0, _FEW, array.shape), array.dtype) if array.dtype.kind in "iu" else array
            for name, array in feeds.items()
        }


def _difference(one: Array, other: Array) -> float:
    with np.errstate(all="ignore"):
        off = np.abs(one.astype(np.float64) - other.astype(np.float64))
    same = (one == other) | (np.isnan(one.astype(np.float64)) & np.isnan(other.astype(np.float64)))
    off = np.where(same, 0.0, off)
    return float(np.where(np.isnan(off), np.inf, off).max())


def _cosine(one: Array, other: Array) -> float:
    first, second = _rows(one), _rows(other)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = (first * second).sum(axis=1) / lengths
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    cosines = np.where(both_zero, 1.0, np.where(np.isfinite(cosines), cosines, -1.0))
    return float(min(cosines.min(), 1.0))


def _rows(array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    return array.astype(np.float64).reshape(array.shape[0] if array.ndim else 1, -1)
