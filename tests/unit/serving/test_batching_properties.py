"""What holds of the batch lane's queue whatever happens, in whatever order."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seaway.errors import Overloaded, PayloadTooLarge
from seaway.serving.batch_limits import BatchCost, BatchLimits
from seaway.serving.batching import PATIENCE, BatchQueue, QueueBounds
from seaway.serving.length_pool import LengthPool, _worth
from seaway.serving.tickets import Batch, Outcome, Priority, Reason, Segment, Ticket

ROOMY = QueueBounds(10_000, 100_000, 1 << 40)
NEVER = 1 << 62
WIDEST = 24

costs = st.builds(BatchCost, st.sampled_from([0.0, 1.0, 30.0, 1e6]), st.just(1.0))
limits = st.builds(
    BatchLimits,
    max_rows=st.integers(1, 9),
    max_tokens=st.none() | st.integers(1, 80),
    max_width=st.just(WIDEST),
    max_delay_ns=st.sampled_from([0, 0, 5]),
    preferred_sizes=st.sampled_from([(), (), (2, 4), (3,)]),
    bucketing=st.booleans(),
    exact=st.sampled_from([False, False, True]),
    cost=costs,
)
lengths = st.none() | st.lists(st.integers(1, WIDEST), min_size=1, max_size=12)


@dataclass
class Caller:
    """Somebody who waits for the doubles of some numbers."""

    rows: list[int]
    poisoned: int | None
    answer: dict[int, int] = field(default_factory=dict)
    outcome: Outcome | None = None


class AnyInterleaving(RuleBasedStateMachine):
    """A queue, callers, and a device that has too little memory for some batches and fails on poisoned rows."""

    @initialize(first=limits, memory=st.integers(WIDEST, 100))
    def begin(self, first: BatchLimits, memory: int) -> None:
        self.bounds = QueueBounds(max_requests=12, max_rows=60, max_bytes=200)
        self.queue = BatchQueue(first, self.bounds)
        self.memory = memory
        self.now = 0
        self.numbers = iter(range(1_000_000))
        self.tickets: list[Ticket] = []
        self.running: list[Batch] = []

    # ------------------------------------------------------------------ callers

    @rule(
        row_lengths=lengths,
        rows=st.integers(1, 12),
        key=st.sampled_from("ab"),
        priority=st.sampled_from(Priority),
        patience=st.sampled_from([2, 20, NEVER]),
        n_bytes=st.integers(0, 30),
        poisoned=st.none() | st.sampled_from([0, 0, 1, 5]),
    )
    def put(
        self, row_lengths: list[int] | None, rows: int, key: str, priority: Priority, patience: int,
        n_bytes: int, poisoned: int | None,
    ) -> None:  # fmt: skip
        rows = len(row_lengths) if row_lengths else rows
        caller = Caller([next(self.numbers) for _ in range(rows)], poisoned)
        ticket = Ticket(key, rows, self.now, self.now + patience, row_lengths, priority, n_bytes, caller)
        try:
            self.queue.put(ticket)
        except (Overloaded, PayloadTooLarge):
            assert ticket.outcome is None
            assert self.is_crowded_by(ticket)
        else:
            self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel_one_that_runs(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.running))
        self.leave(data.draw(st.sampled_from(batch.slices)).ticket)

    # ------------------------------------------------------------------ the device

    @rule(device_free=st.booleans())
    def take(self, device_free: bool) -> None:
        self.expire()
        due = self.queue.due(self.now)
        batch = self.queue.take(self.now, device_free=device_free)
        if batch is not None:
            assert due == self.now
            self.check(batch)
            self.running.append(batch)
        elif device_free:
            assert due is None or due > self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.integers(0, len(self.running) - 1)))

    @rule(new=limits)
    def change_limits(self, new: BatchLimits) -> None:
        self.queue.limits = new

    @rule(passed=st.integers(1, 10))
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule()
    def expire(self) -> None:
        for ticket in self.queue.expire(self.now):
            assert ticket.deadline_ns <= self.now
            self.end(ticket, Outcome.EXPIRED)
        assert all(ticket.deadline_ns > self.now or ticket.outcome for ticket in self.tickets)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def what_is_held_is_within_bounds(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue, bounds = self.queue, self.bounds
        assert 0 <= queue.waiting_requests <= bounds.max_requests
        assert 0 <= queue.waiting_rows <= bounds.max_rows
        assert 0 <= queue.held_bytes <= bounds.max_bytes
        open_ones = [ticket for ticket in self.tickets if ticket.outcome is None]
        running = [part.ticket for batch in self.running for part in batch.slices]
        assert len(queue) == len(open_ones)
        assert queue.held_bytes == sum(ticket.n_bytes for ticket in {*open_ones, *running})

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        while self.running or self.queue.has_work:
            while self.running:
                self.finish(0)
            self.expire()
            if self.queue.has_work:
                due = self.queue.due(self.now)
                assert due is not None, "something waits for ever"
                self.now = due
                self.take(device_free=True)
        assert all(ticket.outcome is not None for ticket in self.tickets)
        assert (len(self.queue), self.queue.waiting_rows, self.queue.held_bytes) == (0, 0, 0)
        assert not self.queue._pools

    # ------------------------------------------------------------------ parts

    def leave(self, ticket: Ticket) -> None:
        assert self.queue.cancel(ticket) == (ticket.payload.outcome is None)
        if ticket.payload.outcome is None:
            self.end(ticket, Outcome.CANCELLED)

    def is_crowded_by(self, ticket: Ticket) -> bool:
        queue, bounds = self.queue, self.bounds
        return (
            queue.waiting_requests >= bounds.max_requests
            or queue.waiting_rows + ticket.rows > bounds.max_rows
            or queue.held_bytes + ticket.n_bytes > bounds.max_bytes
        )

    def check(self, batch: Batch) -> None:
        now = self.queue.limits
        own = [part.ticket.lengths or [1] * part.ticket.rows for part in batch.slices]
        own = [[rows[row] for row in indices(part)] for part, rows in zip(batch.slices, own, strict=True)]
        assert all(part.ticket.key == batch.key for part in batch.slices)
        assert all(part.ticket.outcome is None and part.ticket.deadline_ns > self.now for part in batch.slices)
        assert batch.rows == sum(map(len, own)) == sum(map(len, batch.slices)) <= now.max_rows
        assert batch.width == max(map(max, own))
        assert batch.useful_tokens == sum(map(sum, own))
        # What failed with others before the limits were changed runs again with them.
        assert not now.exact or batch.reason is Reason.RETRY or batch.padding == 0
        plain = not (now.bucketing or now.exact or batch.reason is Reason.RETRY)
        sizes = now.preferred_sizes
        assert not (plain and sizes) or batch.rows in sizes or batch.rows < min(sizes)
        assert now.max_tokens is None or batch.tokens <= now.max_tokens or batch.rows == 1

    def finish(self, at: int) -> None:
        batch = self.running.pop(at)
        if batch.tokens > self.memory:
            ended, outcome = self.queue.out_of_memory(batch), Outcome.FAILED
        elif any(part.ticket.payload.poisoned in indices(part) for part in batch.slices):
            ended, outcome = self.queue.fail(batch), Outcome.FAILED
        else:
            for part in batch.slices:
                caller = part.ticket.payload
                for row in indices(part):
                    assert row not in caller.answer, "a row ran twice to its end"
                    caller.answer[row] = 2 * caller.rows[row]
            ended, outcome = self.queue.done(batch), Outcome.WHOLE
        for ticket in ended:
            self.end(ticket, outcome)

    def end(self, ticket: Ticket, outcome: Outcome) -> None:
        caller = ticket.payload
        assert caller.outcome is None, "answered twice"
        assert ticket.outcome == outcome
        caller.outcome = outcome
        if outcome == Outcome.WHOLE:
            assert [caller.answer[row] for row in range(ticket.rows)] == [2 * number for number in caller.rows]
        if outcome == Outcome.FAILED:
            alone = max(ticket.lengths or [1])
            assert caller.poisoned is not None or alone > self.memory, "failed without a fault of its own"


def indices(part: object) -> list[int]:
    rows, of = part.rows, part.ticket  # type: ignore[attr-defined]
    return list(range(of.rows))[rows] if isinstance(rows, slice) else rows


TestEveryTicketIsAnsweredOnceWithItsOwnRowsForAnyInterleaving = AnyInterleaving.TestCase
TestEveryTicketIsAnsweredOnceWithItsOwnRowsForAnyInterleaving.settings = settings(max_examples=200)


# --------------------------------------------------------------------------- faults


@given(st.integers(1, 64), st.data(), costs)
def test_a_poison_row_among_good_ones_fails_its_own_request_with_few_extra_runs(
    rows: int, data: st.DataObject, cost: BatchCost
) -> None:
    queue = BatchQueue(BatchLimits(64, cost=replace(cost, fixed_ns=1e9)), ROOMY)
    tickets = [Ticket("k", 1, 0, NEVER, [data.draw(st.integers(1, 99))]) for _ in range(rows)]
    poison = data.draw(st.sampled_from(tickets))
    for ticket in tickets:
        queue.put(ticket)
    runs = []
    while batch := queue.take(0, device_free=True):
        runs.append(batch)
        if any(part.ticket is poison for part in batch.slices):
            queue.fail(batch)
        else:
            queue.done(batch)
    assert runs[0].rows == rows
    assert {ticket.outcome for ticket in tickets if ticket is not poison} <= {Outcome.WHOLE}
    assert poison.outcome == Outcome.FAILED
    assert len(runs) - 1 <= 2 * math.ceil(math.log2(rows))
    assert all(batch.reason == Reason.RETRY for batch in runs[1:])


# --------------------------------------------------------------------------- fairness

few_rows = st.lists(st.integers(1, WIDEST), min_size=1, max_size=3)
arrivals = st.lists(st.tuples(few_rows, st.sampled_from(Priority), st.sampled_from("ab")), max_size=5)


@given(limits, st.lists(arrivals, min_size=1, max_size=60), st.booleans())
def test_every_request_is_served_after_a_number_of_batches_that_only_its_elders_determine(
    given_limits: BatchLimits, steps: list[list[tuple[list[int], Priority, str]]], pipelined: bool
) -> None:
    queue = BatchQueue(replace(given_limits, max_delay_ns=0), ROOMY)
    waiting = {Priority.HIGH: 0, Priority.LOW: 0}
    served_by: dict[Ticket, int] = {}
    made = 0

    def serve() -> bool:
        nonlocal made
        batch = (queue.take(0, device_free=False) if pipelined else None) or queue.take(0, device_free=True)
        if batch is None:
            return False
        made += 1
        for part in batch.slices:
            waiting[part.ticket.priority] -= len(part)
        for ticket in queue.done(batch):
            assert made <= served_by.pop(ticket)
        return True

    for step in steps:
        for row_lengths, priority, key in step:
            ticket = Ticket(key, len(row_lengths), 0, NEVER, row_lengths, priority)
            queue.put(ticket)
            waiting[priority] += ticket.rows
            elders = waiting[priority]
            turns = elders + elders // PATIENCE + 1 if priority == Priority.HIGH else elders * (PATIENCE + 1)
            served_by[ticket] = made + turns
        serve()
    while serve():
        pass
    assert not served_by


# --------------------------------------------------------------------------- padding


@settings(max_examples=300)
@given(st.lists(st.integers(1, WIDEST), min_size=1, max_size=25), limits, st.data())
def test_no_window_of_neighbouring_lengths_around_the_head_is_worth_more_for_what_it_costs(
    row_lengths: list[int], given_limits: BatchLimits, data: st.DataObject
) -> None:
    ordered = sorted(row_lengths)
    pool, waiting = LengthPool(), len(ordered)
    for number, length in enumerate(ordered):
        pool.add(Segment(Ticket("k", 1, 0, 0, number=number), length, 0, 1))
    head = data.draw(st.sampled_from(ordered))
    fixed = given_limits.cost.fixed_tokens

    def ratio(rows: list[int]) -> float:
        worth = sum(_worth(length, given_limits, waiting) for length in rows)
        return worth / (fixed + len(rows) * max(rows))

    given_limits = replace(given_limits, exact=False)
    windows = [
        ordered[start:stop]
        for stop in range(1, len(ordered) + 1)
        if stop == len(ordered) or ordered[stop] > ordered[stop - 1]
        for start in range(stop)
        if head in ordered[start:stop] and stop - start <= given_limits.capacity(ordered[stop - 1])
    ]
    found = pool.window(head, given_limits, given_limits.max_rows, waiting)
    top = ordered.index(found.width) + ordered.count(found.width)
    chosen = ordered[top - found.rows : top]
    assert head in chosen
    assert len(chosen) <= given_limits.capacity(found.width)
    if chosen == [head] * given_limits.capacity(head):
        return  # nothing is wasted; that would be hard to better, and isn't tried
    assert math.isclose(ratio(chosen), max(map(ratio, windows)), rel_tol=1e-9)


def closed_loop(limits: BatchLimits, seed: int = 1) -> tuple[float, float]:
    """Rows a second, and which part of all tokens is padding, where 64 callers ask again soon after each answer."""
    chance, queue, now, done = random.Random(seed), BatchQueue(limits, ROOMY), 0, 0
    padding = tokens = 0
    calls = [(index, index) for index in range(64)]
    while done < 2_000:
        while calls and calls[0][0] <= now:
            heapq.heappop(calls)
            queue.put(Ticket("k", 1, now, NEVER, [chance.randint(8, 128)]))
        batch = queue.take(now, device_free=True)
        if batch is None:
            now = calls[0][0]
            continue
        now += int(limits.cost.run_ns(batch.rows, batch.width))
        padding, tokens = padding + batch.padding, tokens + batch.tokens
        for _ in queue.done(batch):
            done += 1
            heapq.heappush(calls, (now + 1_000_000, done))
    return done / now * 1e9, padding / tokens


def test_bucketing_saves_the_padding_of_mixed_lengths_on_a_cpu() -> None:
    minilm = BatchLimits(32, cost=BatchCost(fixed_ns=4e6, per_token_ns=130e3))
    bucketed, waste = closed_loop(minilm)
    plain, plain_waste = closed_loop(replace(minilm, bucketing=False))
    assert bucketed > 1.5 * plain
    assert waste < 0.08 < 0.4 < plain_waste


def test_bucketing_costs_nothing_where_beginning_a_batch_is_what_costs() -> None:
    gpu = BatchLimits(32, cost=BatchCost(fixed_ns=2e6, per_token_ns=100))
    bucketed, _ = closed_loop(gpu)
    plain, _ = closed_loop(replace(gpu, bucketing=False))
    assert bucketed > 0.99 * plain
