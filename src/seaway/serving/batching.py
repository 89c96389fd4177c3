"""The batch lane's queue: which rows run together, and when; what comes of every request, exactly once.

A pure data structure: no thread, no clock, no I/O. The lane holds a lock around every call and says what time it is.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from seaway.errors import Overloaded, PayloadTooLarge
from seaway.serving.batch_limits import BatchLimits
from seaway.serving.length_pool import LengthPool
from seaway.serving.tickets import Batch, Outcome, Priority, Reason, Segment, Slice, Ticket

PATIENCE = 8
"""So many batches may go before the oldest row of low priority; then it goes first once."""
DEADLINE_SLACK_NS = 20_000_000
"""What is left of a request's time for everything around the run of its batch."""
_Pools = tuple[LengthPool, LengthPool]


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """What may wait at most. Bytes are held until a ticket has ended and nothing of it runs."""

    max_requests: int
    max_rows: int
    max_bytes: int


class BatchQueue:
    """Tickets wait here, ride in batches, and end: whole (`done`), failed (`fail`, `out_of_memory`), expired
    (`expire`) or cancelled (`cancel`). Of a ticket that has ended nothing is returned any more, and nothing is run.

    Every batch from `take` is given back once, to `done`, `fail` or `out_of_memory`, in any order.
    """

    def __init__(self, limits: BatchLimits, bounds: QueueBounds) -> None:
        self.limits = limits
        """May be replaced at any time."""
        self._bounds = bounds
        self._pools: dict[Hashable, _Pools] = {}
        self._fifos: tuple[OrderedDict[int, Ticket], OrderedDict[int, Ticket]] = (OrderedDict(), OrderedDict())
        self._open: dict[int, Ticket] = {}
        self._deadlines: list[tuple[int, int]] = []
        self._waiting_deadlines: list[tuple[int, int]] = []
        """Heaps of deadline and number, from which a ticket is taken when it is at the top and has ended, or waits no
        more."""
        self._expired: list[Ticket] = []
        self._retries: deque[tuple[Slice, ...]] = deque()
        self._numbers = 0
        self._passed = 0
        self.waiting_rows = 0
        """That are in no batch, those of a failed one not counted."""
        self.held_bytes = 0

    # ------------------------------------------------------------------ what there is

    def __len__(self) -> int:
        """Tickets that have not ended."""
        return len(self._open)

    @property
    def waiting_requests(self) -> int:
        return len(self._fifos[0]) + len(self._fifos[1])

    @property
    def has_work(self) -> bool:
        """True when something waits that is not in a batch."""
        return self._has_retries() or self.waiting_rows > 0

    def backlog_ns(self) -> int:
        """How long a device needs for what waits."""
        cost = self.limits.cost
        tokens = sum(pool.tokens for pools in self._pools.values() for pool in pools)
        batches = math.ceil(self.waiting_rows / self.limits.max_rows)
        return int(batches * cost.fixed_ns + tokens * cost.per_token_ns)

    # ------------------------------------------------------------------ coming and going

    def put(self, ticket: Ticket) -> None:
        """Accept a ticket. Raises Overloaded when too much waits, PayloadTooLarge for what can never be accepted."""
        lengths = _checked_lengths(ticket)
        self._admit(ticket, max(lengths) if lengths else 1)
        self._numbers += 1
        number = ticket.number = self._numbers
        ticket.waiting = ticket.undone = ticket.rows
        ticket.segments = _segments(ticket, lengths)
        pools = self._pools.get(ticket.key)
        if pools is None:
            pools = self._pools[ticket.key] = (LengthPool(), LengthPool())
        pool = pools[ticket.priority]
        for segment in ticket.segments:
            pool.add(segment)
        self._fifos[ticket.priority][number] = self._open[number] = ticket
        heapq.heappush(self._deadlines, (ticket.deadline_ns, number))
        heapq.heappush(self._waiting_deadlines, (ticket.deadline_ns, number))
        self.waiting_rows += ticket.rows
        self.held_bytes += ticket.n_bytes

    def cancel(self, ticket: Ticket) -> bool:
        """The caller left. False when the ticket had ended already."""
        if ticket.outcome is not None:
            return False
        self._end(ticket, Outcome.CANCELLED)
        return True

    def expire(self, now_ns: int) -> list[Ticket]:
        """The tickets whose time is over, waiting or running; each is returned once."""
        self._sweep(now_ns)
        expired, self._expired = self._expired, []
        return expired

    def next_expiry(self) -> int | None:
        """When to call `expire`."""
        deadlines, tickets = self._deadlines, self._open
        while deadlines and deadlines[0][1] not in tickets:
            heapq.heappop(deadlines)
        if self._expired:
            return 0
        return deadlines[0][0] if deadlines else None

    # ------------------------------------------------------------------ batches

    def take(self, now_ns: int, *, device_free: bool) -> Batch | None:
        """The next batch, if one should leave now.

        A busy device gets one ahead only when that can't grow by waiting: for nothing is lost until it is free.
        """
        self._sweep(now_ns)
        if self._has_retries():
            return self._retry()
        found = self._leaving(now_ns, device_free=device_free)
        return None if found is None else self._make(*found)

    def due(self, now_ns: int) -> int | None:
        """When a free device should call `take`, if nothing comes until then; `now_ns` where it should at once."""
        if self._has_retries() or self._leaving(now_ns, device_free=True):
            return now_ns
        heads = [head.arrived_ns + self.limits.max_delay_ns for head in self._heads()]
        if urgent := self._first_to_expire():
            heads.append(self._latest_start(urgent))
        return max(now_ns, min(heads)) if heads else None

    def done(self, batch: Batch) -> list[Ticket]:
        """The batch ran. Gives the tickets that are whole with it."""
        whole = []
        for part in batch.slices:
            ticket, rows = part.ticket, part.stop - part.start
            self._give_back(ticket, rows)
            if ticket.outcome is None:
                ticket.undone -= rows
                if not ticket.undone:
                    self._end(ticket, Outcome.WHOLE)
                    whole.append(ticket)
        return whole

    def fail(self, batch: Batch) -> list[Ticket]:
        """The batch failed. A single row fails its ticket, which is returned; of more, both halves run again, first."""
        for part in batch.slices:
            self._give_back(part.ticket, len(part))
        if batch.rows > 1:
            self._retries.extendleft(reversed(_halves(batch)))
            return []
        ticket = batch.slices[0].ticket
        if ticket.outcome is not None:
            return []
        self._end(ticket, Outcome.FAILED)
        return [ticket]

    def out_of_memory(self, batch: Batch) -> list[Ticket]:
        """The device had no room for the batch: the limits are halved. A single row fails its ticket."""
        if batch.rows > 1:
            self.limits = self.limits.halved(batch.rows, batch.tokens)
        return self.fail(batch)

    # ------------------------------------------------------------------ admission

    def _admit(self, ticket: Ticket, width: int) -> None:
        bounds, longest = self._bounds, self.limits.longest
        if longest is not None and width > longest:
            raise PayloadTooLarge(f"A sample has {width} tokens; {longest} fit into a batch (max_batch_tokens).")
        if ticket.rows > bounds.max_rows:
            raise PayloadTooLarge(f"The request has {ticket.rows} samples; {bounds.max_rows} may wait; send fewer.")
        if ticket.n_bytes > bounds.max_bytes:
            raise PayloadTooLarge(
                f"The request's tensors take {ticket.n_bytes} bytes; {bounds.max_bytes} may wait; send fewer samples."
            )
        if self.waiting_requests >= bounds.max_requests:
            self._refuse(f"{self.waiting_requests} requests wait already (max_queue_size)")
        if self.waiting_rows + ticket.rows > bounds.max_rows:
            self._refuse(f"{self.waiting_rows} samples wait already, of at most {bounds.max_rows}")
        if self.held_bytes + ticket.n_bytes > bounds.max_bytes:
            self._refuse(f"Requests that wait take {self.held_bytes} bytes already, of at most {bounds.max_bytes}")

    def _refuse(self, why: str) -> None:
        raise Overloaded(f"{why}; retry later.", retry_after_seconds=max(self.backlog_ns() / 1e9, 0.1))

    # ------------------------------------------------------------------ choosing

    def _leaving(self, now_ns: int, *, device_free: bool) -> tuple[Ticket, Reason] | None:
        """The ticket whose oldest row is the head of the batch to leave now, and why it leaves."""
        limits = self.limits
        # Only for a free device is it better to have a preferred size at once than a larger batch later.
        enough = min(limits.preferred_sizes, default=limits.max_rows) if device_free else limits.max_rows
        if not device_free and not any(self._is_full(pools, enough) for pools in self._pools.values()):
            return None
        for head in self._heads():
            if self._is_full(self._pools[head.key], enough):
                return head, Reason.FULL
            if now_ns >= head.arrived_ns + limits.max_delay_ns:
                return head, Reason.DELAY if limits.max_delay_ns else Reason.IDLE
        if device_free and (urgent := self._first_to_expire()) and now_ns >= self._latest_start(urgent):
            return urgent, Reason.DEADLINE
        for pools in self._pools.values():
            if self._is_full(pools, enough):
                high, low = pools
                return (high if high.rows else low).oldest().ticket, Reason.FULL
        return None

    def _heads(self) -> list[Ticket]:
        """The oldest waiting ticket of each priority, the one whose turn it is first."""
        heads = [next(iter(fifo.values())) for fifo in self._fifos if fifo]
        return heads[::-1] if self._passed >= PATIENCE else heads

    def _is_full(self, pools: _Pools, enough: int) -> bool:
        rows, tokens = pools[0].rows + pools[1].rows, pools[0].tokens + pools[1].tokens
        return rows >= min(enough, self.limits.max_rows) or tokens >= (self.limits.max_tokens or math.inf)

    def _first_to_expire(self) -> Ticket | None:
        """Of the tickets that wait, the one with the earliest deadline."""
        deadlines = self._waiting_deadlines
        while deadlines:
            ticket = self._open.get(deadlines[0][1])
            if ticket is not None and ticket.waiting:
                return ticket
            heapq.heappop(deadlines)
        return None

    def _latest_start(self, ticket: Ticket) -> int:
        """When a batch of all that may ride with a ticket has to begin, to be answered before the ticket's deadline.

        Runs take longer than the model of them says, and threads have to wake up.
        """
        pools = self._pools[ticket.key]
        width = max(pool.longest for pool in pools if pool.rows)
        rows = min(pools[0].rows + pools[1].rows, self.limits.capacity(width))
        return ticket.deadline_ns - 2 * int(self.limits.cost.run_ns(rows, width)) - DEADLINE_SLACK_NS

    # ------------------------------------------------------------------ making

    def _make(self, head: Ticket, reason: Reason) -> Batch:
        """The batch around a ticket's longest waiting row."""
        limits, priority = self.limits, head.priority
        pools = self._pools[head.key]
        own, other = pools[priority], pools[1 - priority]
        segments = head.segments
        while segments[-1].start == segments[-1].stop:
            segments.pop()
        if limits.bucketing or limits.exact:
            slices = self._bucketed(own, other, segments[-1].length)
        else:
            slices = self._oldest(own, other)
        self._count_turn(priority)
        batch = self._leave(head.key, slices, reason)
        if not (own.rows or other.rows):
            del self._pools[head.key]
        return batch

    def _bucketed(self, own: LengthPool, other: LengthPool, length: int) -> list[Slice]:
        """The best rows around one of such a length, cut down to a preferred size where it reaches one."""
        limits = self.limits
        width, rows, added = self._plan(own, other, length, limits.max_rows)
        for size in sorted(limits.preferred_sizes, reverse=True):
            if size < rows + added:
                plan = self._plan(own, other, length, size)
                if plan[1] + plan[2] == size:
                    width, rows, added = plan
                    break
            elif size == rows + added:
                break
        return own.take(width, rows) + other.take(width, added)

    def _oldest(self, own: LengthPool, other: LengthPool) -> list[Slice]:
        """The oldest rows, those of the head's priority first, cut down to a preferred size where they reach one."""
        limits = self.limits
        found = own.in_order(0, 1, limits)
        added = other.in_order(found.rows, found.width, limits)
        size = max((size for size in limits.preferred_sizes if size <= added.rows), default=added.rows)
        if size < added.rows:
            # Fewer of the same rows, in the same order: they fit as well.
            limits = replace(limits, max_rows=size)
            found = own.in_order(0, 1, limits)
            added = other.in_order(found.rows, found.width, limits)
        return own.take_oldest(found) + other.take_oldest(added)

    def _plan(self, own: LengthPool, other: LengthPool, length: int, max_rows: int) -> tuple[int, int, int]:
        """Width, rows of the head's priority, and rows of the other one, which never make a batch wider."""
        limits = self.limits
        waiting = own.rows + other.rows
        window = own.window(length, limits, max_rows, waiting)
        capacity = min(max_rows, limits.capacity(window.width))
        if not other.rows or window.rows >= capacity:
            return window.width, window.rows, 0
        return window.width, window.rows, other.extend(window, capacity, limits, waiting).rows - window.rows

    def _count_turn(self, priority: Priority) -> None:
        low_waits = bool(self._fifos[Priority.LOW])
        self._passed = self._passed + 1 if priority == Priority.HIGH and low_waits else 0

    def _leave(self, key: Hashable, slices: list[Slice], reason: Reason) -> Batch:
        """Take `slices` out of what waits."""
        for part in slices:
            ticket = part.ticket
            ticket.waiting -= part.stop - part.start
            if not ticket.waiting:
                del self._fifos[ticket.priority][ticket.number]
        batch = _batch(key, _joined(slices), reason)
        self.waiting_rows -= batch.rows
        if batch.rows >= self.limits.capacity(batch.width) or batch.rows in self.limits.preferred_sizes:
            batch.reason = Reason.FULL
        return batch

    def _has_retries(self) -> bool:
        """Whether a part of a failed batch is to run again; parts are forgotten when all their tickets have ended."""
        retries = self._retries
        while retries and all(part.ticket.outcome is not None for part in retries[0]):
            retries.popleft()
        return bool(retries)

    def _retry(self) -> Batch:
        """The first part of a failed batch, without the tickets that have ended since and within the limits of now."""
        alive = [part for part in self._retries.popleft() if part.ticket.outcome is None]
        width = max(part.ticket.width(part.stop) for part in alive)
        now, later = _cut(alive, self.limits.capacity(width))
        if later:
            self._retries.appendleft(tuple(later))
        return _batch(now[0].ticket.key, now, Reason.RETRY)

    # ------------------------------------------------------------------ ending

    def _sweep(self, now_ns: int) -> None:
        """End the tickets whose time is over; `expire` returns them."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            ticket = self._open.get(heapq.heappop(deadlines)[1])
            if ticket is not None:
                self._end(ticket, Outcome.EXPIRED)
                self._expired.append(ticket)
        if len(deadlines) > 2 * len(self._open) + 64:
            # Most tickets end long before their deadline.
            self._deadlines = [entry for entry in deadlines if entry[1] in self._open]
            heapq.heapify(self._deadlines)
        if len(self._waiting_deadlines) > 2 * self.waiting_requests + 64:
            waiting = (entry for entry in self._waiting_deadlines if entry[1] in self._open)
            self._waiting_deadlines = [entry for entry in waiting if self._open[entry[1]].waiting]
            heapq.heapify(self._waiting_deadlines)

    def _end(self, ticket: Ticket, outcome: Outcome) -> None:
        ticket.outcome = outcome
        del self._open[ticket.number]
        if ticket.waiting:
            pools = self._pools[ticket.key]
            for segment in ticket.segments:
                pools[ticket.priority].remove(segment)
            if not (pools[0].rows or pools[1].rows):
                del self._pools[ticket.key]
            del self._fifos[ticket.priority][ticket.number]
            self.waiting_rows -= ticket.waiting
            ticket.waiting = 0
        if not ticket.running:
            self.held_bytes -= ticket.n_bytes

    def _give_back(self, ticket: Ticket, rows: int) -> None:
        ticket.running -= rows
        if not ticket.running and ticket.outcome is not None:
            self.held_bytes -= ticket.n_bytes


# --------------------------------------------------------------------------- rows


def _checked_lengths(ticket: Ticket) -> list[int] | None:
    if ticket.rows < 1:
        raise ValueError("A ticket has at least one row.")
    if ticket.lengths is None:
        return None
    lengths = list(map(int, ticket.lengths))
    if len(lengths) != ticket.rows or min(lengths) < 1:
        raise ValueError("A ticket has one length for each of its rows, and none is below 1.")
    return lengths


def _segments(ticket: Ticket, lengths: list[int] | None) -> list[Segment]:
    """The rows by length. Sets in which order the ticket's slices count them."""
    shortest, longest = (min(lengths), max(lengths)) if lengths else (1, 1)
    if lengths is None or shortest == longest:
        ticket.length = longest
        return [Segment(ticket, longest, 0, ticket.rows)]
    ticket.order = sorted(range(ticket.rows), key=lengths.__getitem__)
    ordered = ticket.ordered_lengths = sorted(lengths)
    edges = [0, *(at for at in range(1, ticket.rows) if ordered[at] != ordered[at - 1]), ticket.rows]
    return [Segment(ticket, ordered[start], start, stop) for start, stop in pairwise(edges)]


def _joined(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of one ticket that follow each other as one."""
    joined: list[Slice] = []
    last: dict[int, Slice] = {}
    for part in slices:
        if len(part.ticket.segments) > 1:
            before = last.get(part.ticket.number)
            if before is not None and before.start == part.stop:
                before.start = part.start
                continue
            last[part.ticket.number] = part
        joined.append(part)
    return joined


def _batch(key: Hashable, slices: Sequence[Slice], reason: Reason) -> Batch:
    """A batch of these rows, which run from now on."""
    n_rows, width, tokens = 0, 0, 0
    for part in slices:
        ticket, rows = part.ticket, part.stop - part.start
        ticket.running += rows
        n_rows += rows
        lengths, longest = ticket.ordered_lengths, ticket.length
        if lengths is None:
            tokens += rows * longest
        else:
            longest = lengths[part.stop - 1]
            tokens += sum(lengths[part.start : part.stop])
        if longest > width:
            width = longest
    return Batch(key, tuple(slices), n_rows, width, tokens, reason)


def _halves(batch: Batch) -> list[tuple[Slice, ...]]:
    first, second = _cut(batch.slices, (batch.rows + 1) // 2)
    return [tuple(first), tuple(second)]


def _cut(slices: Iterable[Slice], rows: int) -> tuple[list[Slice], list[Slice]]:
    """The first `rows` rows, and the others."""
    first: list[Slice] = []
    second: list[Slice] = []
    for part in slices:
        cut = min(part.stop, part.start + rows)
        rows -= cut - part.start
        if cut > part.start:
            first.append(Slice(part.ticket, part.start, cut))
        if cut < part.stop:
            second.append(Slice(part.ticket, cut, part.stop))
    return first, second
