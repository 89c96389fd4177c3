"""The waiting rows of one key and priority, by length, and which of them ride together best."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from seaway.serving.batch_limits import BatchLimits
from seaway.serving.tickets import Segment, Slice

_USUAL_FILL = 0.25
"""The part of the rows that could ride together that does. Of 1/4, 1/2 and 1 this gave the most throughput (up to 10 %
more, with 64 rows outstanding) and the least latency, whatever beginning a batch costs."""


class Window(NamedTuple):
    """So many rows, from `width` downwards, and what they are worth, in tokens."""

    width: int
    rows: int
    worth: float


class Ordered(NamedTuple):
    """What a batch has with rows in the order they came, and these, as lengths and how many of each."""

    width: int
    rows: int
    parts: list[tuple[int, int]]


class _Prefixes(NamedTuple):
    """Neighbouring lengths; how many rows there are below each of them, and what those are worth."""

    lengths: list[int]
    below: list[int]
    worth_below: list[float]

    def fill(self, at: int, top: int, capacity: int, fixed: float) -> Window:
        """All rows from length number `top` down to `at`, not included; and on from there while that pays.

        A row pays that is worth more, for what its padded tokens cost, than those before it. Rows get shorter on the
        way down, so that after the first one that doesn't pay none does.
        """
        lengths, below, worth_below = self
        width, upper, upper_worth = lengths[top], below[top + 1], worth_below[top + 1]

        def pays(number: int) -> bool:
            gain = (worth_below[number + 1] - worth_below[number]) / (below[number + 1] - below[number])
            rows, worth = upper - below[number + 1], upper_worth - worth_below[number + 1]
            return gain * (fixed + rows * width) >= worth * width

        # The lowest length of which all rows fit, and the one below it, of which some do.
        whole = bisect_left(below, upper - capacity)
        lowest = max(0, whole - 1)
        if not pays(lowest):
            lowest += bisect_left(range(lowest, at + 1), x=True, key=pays)
        rows, worth = upper - below[lowest], upper_worth - worth_below[lowest]
        if rows > capacity:
            gain = (worth_below[lowest + 1] - worth_below[lowest]) / (below[lowest + 1] - below[lowest])
            worth -= (rows - capacity) * gain
            rows = capacity
        return Window(width, rows, worth)


class LengthPool:
    """Rows by length, and within a length by arrival. A ticket has at most one segment of a length."""

    __slots__ = ("_buckets", "_counts", "_lengths", "rows", "tokens")

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._buckets: dict[int, OrderedDict[int, Segment]] = {}
        self._counts: dict[int, int] = {}
        self.rows = 0
        self.tokens = 0

    @property
    def longest(self) -> int:
        return self._lengths[-1]

    def add(self, segment: Segment) -> None:
        length, rows = segment.length, segment.stop - segment.start
        bucket = self._buckets.get(length)
        if bucket is None:
            insort(self._lengths, length)
            bucket = self._buckets[length] = OrderedDict()
            self._counts[length] = 0
        bucket[segment.ticket.number] = segment
        self._counts[length] += rows
        self.rows += rows
        self.tokens += rows * length

    def remove(self, segment: Segment) -> None:
        """Forget what still waits of a segment."""
        rows = segment.stop - segment.start
        if rows:
            del self._buckets[segment.length][segment.ticket.number]
            self._forget(segment.length, rows)
            segment.start = segment.stop

    def oldest(self) -> Segment:
        return min(
            (next(iter(bucket.values())) for bucket in self._buckets.values()), key=lambda first: first.ticket.number
        )

    # ------------------------------------------------------------------ choosing

    def window(self, head: int, limits: BatchLimits, max_rows: int, waiting: int) -> Window:
        """The rows around the one of length `head` that make the most of a batch.

        A row is worth its own tokens and its share of what beginning a batch costs, where so many rows wait in all. Of
        the windows of neighbouring lengths that hold the head, this is the one worth most for what it costs: a short
        row doesn't pay for a long one's padding, unless beginning another batch costs more than the padding.
        """
        head_worth = _worth(head, limits, waiting)
        capacity = min(limits.capacity(head), max_rows)
        if limits.exact or self._counts[head] >= capacity:
            rows = min(self._counts[head], capacity)
            return Window(head, rows, rows * head_worth)
        near = self._near(head, limits, max_rows, waiting)
        lengths, below, worth_below = near
        at = bisect_left(lengths, head)
        fixed = limits.cost.fixed_tokens
        best, best_ratio = Window(head, 1, head_worth), 0.0
        for top in range(at, len(lengths)):
            width = lengths[top]
            capacity = min(limits.capacity(width), max_rows)
            forced, worth = below[top + 1] - below[at + 1], worth_below[top + 1] - worth_below[at + 1]
            if forced >= capacity:
                break  # the head wouldn't fit any more
            # Filled up with rows of the head's length it would be worth this at most.
            fewest = (worth + head_worth) / (fixed + (forced + 1) * width)
            most = (worth + (capacity - forced) * head_worth) / (fixed + capacity * width)
            if max(fewest, most) <= best_ratio:
                continue
            found = near.fill(at, top, capacity, fixed)
            if found.rows == forced:
                found = Window(width, forced + 1, worth + head_worth)
            ratio = found.worth / (fixed + found.rows * width)
            if ratio > best_ratio:
                best, best_ratio = found, ratio
        return best

    def _near(self, head: int, limits: BatchLimits, max_rows: int, waiting: int) -> _Prefixes:
        """The lengths that a window around the head can reach."""
        lengths, counts = self._lengths, self._counts
        low = at = bisect_left(lengths, head)
        rows = counts[head]
        while low and rows < max_rows:
            low -= 1
            rows += counts[lengths[low]]
        high, rows = at + 1, 0
        while high < len(lengths) and rows < max_rows:
            rows += counts[lengths[high]]
            high += 1
        near = lengths[low:high]
        rows_of = [counts[length] for length in near]
        worths = [counts[length] * _worth(length, limits, waiting) for length in near]
        return _Prefixes(near, list(accumulate(rows_of, initial=0)), list(accumulate(worths, initial=0.0)))

    def extend(self, window: Window, capacity: int, limits: BatchLimits, waiting: int) -> Window:
        """`window` with those rows, none longer than it is wide, that it is worth more with."""
        width, rows, worth = window
        fixed = limits.cost.fixed_tokens
        for length in reversed(self._lengths[: bisect_right(self._lengths, width)]):
            gain = _worth(length, limits, waiting)
            if limits.exact and length != width:
                break
            if rows == capacity or gain * (fixed + rows * width) < worth * width:
                break
            added = min(self._counts[length], capacity - rows)
            rows, worth = rows + added, worth + added * gain
        return Window(width, rows, worth)

    # ------------------------------------------------------------------ taking

    def take(self, width: int, rows: int) -> list[Slice]:
        """The first `rows` rows from `width` downwards; the oldest of the last length they reach."""
        taken: list[Slice] = []
        at = bisect_right(self._lengths, width) - 1
        while rows:
            length = self._lengths[at]
            if self._counts[length] <= rows:
                rows -= self._counts[length]
                for segment in self._buckets[length].values():
                    taken.append(Slice(segment.ticket, segment.start, segment.stop))
                    segment.start = segment.stop
                self._forget(length, self._counts[length])
            else:
                taken += self._first(length, rows)
                rows = 0
            at -= 1
        return taken

    def in_order(self, rows: int, width: int, limits: BatchLimits) -> Ordered:
        """Rows in the order they came, to add to a batch of so many rows and such a width while they fit into it."""
        parts: list[tuple[int, int]] = []
        for _, negative, waiting in heapq.merge(*map(self._arrivals, self._lengths)):
            wider = max(width, -negative)
            added = min(waiting, limits.capacity(wider) - rows)
            if added <= 0:
                break
            parts.append((-negative, added))
            width, rows = wider, rows + added
        return Ordered(width, rows, parts)

    def take_oldest(self, found: Ordered) -> list[Slice]:
        """What `in_order` has just found."""
        return [part for length, rows in found.parts for part in self._first(length, rows)]

    def _arrivals(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Of each ticket with rows of a length its number, the length, negative, and how many rows."""
        for number, segment in self._buckets[length].items():
            yield number, -length, segment.stop - segment.start

    def _first(self, length: int, rows: int) -> list[Slice]:
        bucket, taken, left = self._buckets[length], [], rows
        while left:
            number, segment = next(iter(bucket.items()))
            cut = max(segment.start, segment.stop - left)
            taken.append(Slice(segment.ticket, cut, segment.stop))
            left -= segment.stop - cut
            if cut == segment.start:
                del bucket[number]
            # From the end, beside the ticket's next longer rows, so that both make one slice.
            segment.stop = cut
        self._forget(length, rows)
        return taken

    def _forget(self, length: int, rows: int) -> None:
        self.rows -= rows
        self.tokens -= rows * length
        self._counts[length] -= rows
        if not self._counts[length]:
            del self._counts[length], self._buckets[length]
            del self._lengths[bisect_left(self._lengths, length)]


def _worth(length: int, limits: BatchLimits, waiting: int) -> float:
    together = limits.capacity(length)
    if waiting < together:
        together = waiting
    return limits.cost.fixed_tokens / (together * _USUAL_FILL) + length
