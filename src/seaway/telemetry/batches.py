"""What a batch lane has done since its process started; control adds it up for /metrics."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the batch size histogram's buckets, in rows."""
FILL = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The same for the part of a batch's capacity that was used."""


class DeviceUse(msgspec.Struct, frozen=True):
    """A GPU as its driver sees it."""

    device: str
    used_bytes: int
    total_bytes: int
    utilisation: float | None
    """The part of the last moments in which something ran, 0 to 1; None without NVIDIA's library."""


class LimitsNow(msgspec.Struct, frozen=True):
    """What a batch may have at this moment: as calibrated, asked for, or lowered since."""

    max_rows: int
    max_tokens: int | None
    """Rows times the longest length; None where lengths don't differ."""
    max_queue_delay_seconds: float
    length_bucketing: bool = True
    latency_target_seconds: float | None = None
    preferred_rows: tuple[int, ...] = ()
    target_missed: bool = False
    """Not even a single sample was fast enough for the target when it was measured."""


class BatchCounters(msgspec.Struct):
    """Only ever growing. Written by the lane under its lock, copied by the I/O thread."""

    batches: int = 0
    rows: int = 0
    fill: float = 0.0
    """Sum of used parts."""
    row_buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(ROWS) + 1))
    fill_buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(FILL) + 1))
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    """Why batches left the queue: full, idle, delay, deadline or retry."""
    tokens: int = 0
    """That batches ran, padding counted."""
    padding: int = 0
    busy_ns: int = 0
    """That batches took, from leaving the queue to their outputs."""
    out_of_memory: int = 0
    failed_rows: int = 0

    def left(self, rows: int, capacity: int, reason: str) -> None:
        """A batch has left the queue; `capacity`: the rows that might have been in it."""
        used = rows / max(capacity, rows)
        self.batches += 1
        self.rows += rows
        self.fill += used
        self.row_buckets[bisect_left(ROWS, rows)] += 1
        self.fill_buckets[bisect_left(FILL, used)] += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def ran(self, tokens: int, padding: int, took_ns: int) -> None:
        """A batch's outputs are there."""
        self.tokens += tokens
        self.padding += padding
        self.busy_ns += took_ns

    def summary(self) -> dict[str, float]:
        """How many batches, of how many rows, and how much of the work was padding, 0 to 1."""
        return {"batches": self.batches, "rows": self.rows, "padding": self.padding / max(self.tokens, 1)}

    def plus(self, other: BatchCounters) -> BatchCounters:
        """Both together, as of a worker and the one it replaced."""

        def added(mine: list[int], theirs: list[int]) -> list[int]:
            return [one + two for one, two in zip(mine, theirs, strict=True)]

        return BatchCounters(
            self.batches + other.batches, self.rows + other.rows, self.fill + other.fill,
            added(self.row_buckets, other.row_buckets), added(self.fill_buckets, other.fill_buckets),
            {
                reason: self.reasons.get(reason, 0) + other.reasons.get(reason, 0)
                for reason in sorted({*self.reasons, *other.reasons})
            },
            self.tokens + other.tokens, self.padding + other.padding, self.busy_ns + other.busy_ns,
            self.out_of_memory + other.out_of_memory, self.failed_rows + other.failed_rows,
        )  # fmt: skip


def added(one: BatchCounters | None, other: BatchCounters | None) -> BatchCounters | None:
    """Both together, where there are any."""
    if one is None or other is None:
        return one or other
    return one.plus(other)
