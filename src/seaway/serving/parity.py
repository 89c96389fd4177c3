"""How far the answers of a device and its dtype are from those of the same model on the CPU in fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seaway.packages import PackageSpec
from seaway.runtimes import runtime
from seaway.runtimes.base import Array, DeviceSession

Feeds = Mapping[str, Array]


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
    """The worst of several."""
    return Parity(
        max(part.max_difference for part in parts),
        min(part.min_cosine for part in parts),
        sum(part.rows for part in parts),
    )


def against_cpu(session: DeviceSession, package: Path, spec: PackageSpec, runs: Sequence[Feeds]) -> Parity:
    """`session` against the same package on the CPU in fp32, which is loaded for this and let go. Called at deploy.

    Raises what loading and running raise.
    """
    names = [output.name for output in session.signature.outputs]
    reference = runtime(spec.runtime or "").load(package, spec, threads=1, device="cpu")
    return combine([compare(reference.run(feeds, names, None), session.run(feeds, names, None)) for feeds in runs])


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
