"""How large a batch may be: what a deploy measured, what the latency target allows, what production taught since."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from seaway.errors import WarmUpFailed

MEMORY_MARGIN = 0.1
"""The share of a device's memory that no calibrated batch may need: fragments, and what others allocate meanwhile."""
TARGET_SHARE = 0.5
"""A request waits for up to one batch that was running when it came, and then for its own."""
_LEAST_TOKEN_NS = 1e-3


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a batch costs: so much whatever it holds, and so much for each token, those of the padding too."""

    fixed_ns: float = 1_000_000.0
    per_token_ns: float = 10_000.0
    fixed_tokens: float = field(init=False, repr=False)
    """How many tokens cost as much as beginning a batch."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed_tokens", self.fixed_ns / self.per_token_ns)

    def run_ns(self, rows: int, width: int) -> float:
        return self.fixed_ns + self.per_token_ns * rows * width


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch may hold, and how long a free device waits for it."""

    max_rows: int
    max_tokens: int | None = None
    """Rows times the longest length. A row that alone is longer runs alone."""
    max_width: int | None = None
    """The longest row that is accepted at all; None: `max_tokens`."""
    max_delay_ns: int = 0
    preferred_sizes: tuple[int, ...] = ()
    """Numbers of rows that the device likes; what waits beyond one of them rides in the next batch."""
    bucketing: bool = True
    """Rows of like length ride together; else those that came together."""
    exact: bool = False
    """Only rows of one length ride together, whatever else is said."""
    cost: BatchCost = BatchCost()

    def __post_init__(self) -> None:
        if self.max_rows < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ValueError("A batch must be allowed to hold at least one row and one token.")

    @property
    def longest(self) -> int | None:
        return self.max_tokens if self.max_width is None else self.max_width

    def capacity(self, width: int) -> int:
        """How many rows of this length fit into a batch; at least one.

        >>> BatchLimits(32, 1024).capacity(128), BatchLimits(32, 1024).capacity(8), BatchLimits(32, 64).capacity(128)
        (8, 32, 1)
        """
        if self.max_tokens is None or self.max_rows * width <= self.max_tokens:
            return self.max_rows
        return max(1, self.max_tokens // width)

    def halved(self, rows: int, tokens: int) -> BatchLimits:
        """Limits under which no batch is more than half of one that ran out of memory."""
        if self.max_tokens is None:
            return replace(self, max_rows=max(1, min(self.max_rows, rows // 2)))
        most = max(1, min(self.max_tokens, tokens // 2))
        return replace(self, max_tokens=most, max_width=self.longest)


# --------------------------------------------------------------------------- at deploy


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One measured batch. A batch that ran out of memory has infinite seconds."""

    rows: int
    width: int
    seconds: float
    n_bytes: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width


def fit_cost(curve: Sequence[CurvePoint]) -> BatchCost:
    """The cost whose relative error over the curve is least; neither of its parts is ever negative."""
    measured = [point for point in curve if np.isfinite(point.seconds)]
    if not measured:
        raise ValueError("No batch of the curve could be run.")
    seconds = np.array([point.seconds for point in measured])
    tokens = np.array([point.tokens for point in measured], dtype=float)
    # Each line is divided by its time, so that the short batches count as much as the long ones.
    relative = np.column_stack([1 / seconds, tokens / seconds])
    fixed, per_token = np.linalg.lstsq(relative, np.ones(len(measured)), rcond=None)[0]
    if fixed < 0 or per_token < 0:
        column = relative[:, 1] if fixed < 0 else relative[:, 0]
        alone = column.sum() / (column @ column)
        fixed, per_token = (0.0, alone) if fixed < 0 else (alone, 0.0)
    return BatchCost(float(fixed) * 1e9, max(float(per_token) * 1e9, _LEAST_TOKEN_NS))


def choose_limits(
    curve: Sequence[CurvePoint],
    *,
    memory_bytes: int,
    lengths_differ: bool = True,
    latency_target_seconds: float | None = None,
    margin: float = MEMORY_MARGIN,
) -> BatchLimits:
    """The largest batch that fits the device and runs in half of the latency target. Raises WarmUpFailed if none fits.

    Only what was measured is trusted: every measured batch within the limits fits and is fast enough. Where not even
    single rows are fast enough, they run alone; where lengths don't differ, only rows are limited.
    """
    fitting = [p for p in curve if np.isfinite(p.seconds) and p.n_bytes <= memory_bytes * (1 - margin)]
    if not fitting:
        raise WarmUpFailed(
            f"Not one measured batch fits into {memory_bytes / 1e9:.1f} GB of device memory; take a smaller model, "
            "a narrower dtype, or a larger device."
        )
    allowed_seconds = np.inf if latency_target_seconds is None else latency_target_seconds * TARGET_SHARE
    good = {point for point in fitting if point.seconds <= allowed_seconds}
    rows, tokens = _largest(curve, good)
    widest = max(point.width for point in fitting)
    cost = fit_cost(curve)
    if not lengths_differ:
        return BatchLimits(rows, cost=cost)
    return BatchLimits(rows, tokens, widest, cost=cost)


def _largest(curve: Sequence[CurvePoint], good: set[CurvePoint]) -> tuple[int, int]:
    """The most tokens, then rows, such that all measured batches within them are good."""
    for tokens in sorted({point.tokens for point in good}, reverse=True):
        for rows in sorted({point.rows for point in good if point.tokens <= tokens}, reverse=True):
            within = [point for point in curve if point.rows <= rows and point.tokens <= tokens]
            reached = any(point.tokens == tokens for point in within)
            if reached and all(point in good for point in within):
                return rows, tokens
    return 1, 1


# --------------------------------------------------------------------------- in production

_WINDOW_NS = 1_000_000_000
_WINDOW_BATCHES = 8
_MISSES_ALLOWED = 0.1
_LOWER, _RAISE = 0.75, 1 / 64
_WINDOWS_MET = 5
"""So many windows in a row have to meet the target before the limits are raised, by a step for each further one."""
_CEILING_NS = 3600 * 1_000_000_000
"""How long a batch that ran out of memory is remembered: what took the memory may have gone."""


class AdaptiveLimits:
    """The limits of now: lowered at once when batches take more than their share of the target, raised step by step.

    It looks at the time of batches, not at that of requests: those also wait because there are too many of them, and
    smaller batches would only make that worse.
    """

    def __init__(
        self, calibrated: BatchLimits, *, latency_target_seconds: float | None = None, fastest_seconds: float = 0.0
    ) -> None:
        """`fastest_seconds`: what the fastest batch that was measured took."""
        calibrated = replace(calibrated, max_width=calibrated.longest)
        self._calibrated = calibrated
        self.latency_target_seconds = latency_target_seconds
        allowed = math.inf if latency_target_seconds is None else latency_target_seconds * TARGET_SHARE
        self.target_missed = fastest_seconds > allowed
        """Not even the smallest batch is fast enough."""
        self._allowed_ns = None if latency_target_seconds is None else latency_target_seconds * TARGET_SHARE * 1e9
        self._share = 1.0
        self._ceiling: BatchLimits | None = None
        self._ceiling_until_ns = 0
        self._began_ns: int | None = None
        self._batches = self._missed = self._met = 0
        self.limits = calibrated

    def wait_for_nobody(self) -> None:
        """From now on a free device waits for no company."""
        self._calibrated = replace(self._calibrated, max_delay_ns=0)
        self.limits = replace(self.limits, max_delay_ns=0)

    def observe(self, run_ns: int, now_ns: int) -> bool:
        """Note that a batch took so long. True when `limits` have changed."""
        if self._began_ns is None:
            self._began_ns = now_ns
        self._batches += 1
        if self._allowed_ns is not None and run_ns > self._allowed_ns:
            self._missed += 1
        if now_ns - self._began_ns < _WINDOW_NS or self._batches < _WINDOW_BATCHES:
            return False
        self._end_window(now_ns)
        return self._publish(now_ns)

    def out_of_memory(self, rows: int, tokens: int, now_ns: int) -> bool:
        """Note that a batch of this size didn't fit: half of it is the ceiling for an hour."""
        self._ceiling = self.limits.halved(rows, tokens)
        self._ceiling_until_ns = now_ns + _CEILING_NS
        return self._publish(now_ns)

    def row_out_of_memory(self, now_ns: int) -> bool:
        """Note that a row had no room even alone: it was too large itself, and batches may be as large as before."""
        self._ceiling = None
        return self._publish(now_ns)

    def _end_window(self, now_ns: int) -> None:
        if self._missed > self._batches * _MISSES_ALLOWED:
            self._share, self._met = self._share * _LOWER, 0
            # Below this all limits are 1 already, and the way back would only get longer.
            self._share = max(self._share, 1 / max(self._calibrated.max_rows, self._calibrated.max_tokens or 1))
        else:
            self._met += 1
            if self._met >= _WINDOWS_MET:
                self._share = min(1.0, self._share + _RAISE)
        self._began_ns, self._batches, self._missed = now_ns, 0, 0

    def _publish(self, now_ns: int) -> bool:
        if self._ceiling is not None and now_ns >= self._ceiling_until_ns:
            self._ceiling = None
        before, calibrated = self.limits, self._calibrated
        ceiling = self._ceiling or calibrated
        rows = min(max(1, int(calibrated.max_rows * self._share)), ceiling.max_rows)
        tokens = None
        if calibrated.max_tokens is not None and ceiling.max_tokens is not None:
            tokens = min(max(1, int(calibrated.max_tokens * self._share)), ceiling.max_tokens)
        self.limits = replace(calibrated, max_rows=rows, max_tokens=tokens)
        return self.limits != before
