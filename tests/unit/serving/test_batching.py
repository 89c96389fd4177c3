"""Which rows run together, and when."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from seaway.errors import Overloaded, PayloadTooLarge
from seaway.serving.batch_limits import BatchCost, BatchLimits
from seaway.serving.batching import DEADLINE_SLACK_NS, PATIENCE, BatchQueue, QueueBounds
from seaway.serving.tickets import Batch, Outcome, Priority, Reason, Ticket

ROOMY = QueueBounds(max_requests=10_000, max_rows=100_000, max_bytes=1 << 40)
NEVER = 1 << 62
EVEN = BatchCost(fixed_ns=100.0, per_token_ns=1.0)
"""Beginning a batch costs as much as 100 tokens."""


def queue(max_rows: int = 4, *, bounds: QueueBounds = ROOMY, **limits: Any) -> BatchQueue:
    return BatchQueue(BatchLimits(max_rows, cost=EVEN, **limits), bounds)


def ticket(
    rows: int = 1,
    *,
    lengths: Sequence[int] | None = None,
    at: int = 0,
    deadline: int = NEVER,
    key: Hashable = "k",
    priority: Priority = Priority.HIGH,
    n_bytes: int = 0,
) -> Ticket:
    rows = rows if lengths is None else len(lengths)
    return Ticket(key, rows, at, deadline, lengths, priority, n_bytes)


def put(target: BatchQueue, *tickets: Ticket) -> None:
    for one in tickets:
        target.put(one)


def take(target: BatchQueue, now: int = 0, *, device_free: bool = True) -> Batch:
    batch = target.take(now, device_free=device_free)
    assert batch is not None
    return batch


def rows_of(batch: Batch) -> list[tuple[Ticket, int]]:
    """Each row of a batch in the batch's order, as its ticket and its place there."""
    return [(part.ticket, row) for part in batch.slices for row in _indices(part.ticket, part.rows)]


def lengths_of(batch: Batch) -> list[int]:
    return sorted(one.lengths[row] if one.lengths else 1 for one, row in rows_of(batch))


def _indices(of: Ticket, rows: slice | list[int]) -> list[int]:
    return list(range(of.rows))[rows] if isinstance(rows, slice) else rows


# --------------------------------------------------------------------------- what rides together


def test_rows_of_waiting_requests_ride_together() -> None:
    one = queue()
    first, second = ticket(1), ticket(2)
    put(one, first, second)
    batch = take(one)
    assert rows_of(batch) == [(first, 0), (second, 0), (second, 1)]
    assert one.done(batch) == [first, second]
    assert [first.outcome, second.outcome] == [Outcome.WHOLE, Outcome.WHOLE]


def test_a_batch_has_rows_of_one_key_only_and_the_oldest_row_says_of_which() -> None:
    one = queue()
    put(one, ticket(key="a"), ticket(key="b"), ticket(key="a"))
    assert [(take(one).key, take(one).key)] == [("a", "b")]


def test_a_request_larger_than_a_batch_is_split_and_whole_after_its_last_part() -> None:
    one = queue(max_rows=4)
    large = ticket(10)
    put(one, large)
    batches = [take(one) for _ in range(3)]
    assert [batch.rows for batch in batches] == [4, 4, 2]
    assert sorted(row for batch in batches for _, row in rows_of(batch)) == list(range(10))
    assert [one.done(batch) for batch in reversed(batches)] == [[], [], [large]]


def test_a_batch_holds_no_more_tokens_than_allowed_padding_counted() -> None:
    one = queue(max_rows=8, max_tokens=40)
    put(one, ticket(lengths=[9, 10, 10, 10, 10, 9]))
    batch = take(one)
    assert (batch.rows, batch.width, batch.tokens) == (4, 10, 40)


def test_padding_is_what_a_batch_computes_for_nothing() -> None:
    one = queue()
    put(one, ticket(lengths=[9, 10, 7]))
    assert take(one).padding == 1 + 3


def test_a_row_longer_than_a_batch_may_be_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="41 tokens; 40 fit"):
        queue(max_tokens=40).put(ticket(lengths=[5, 41]))


def test_a_row_that_was_accepted_runs_alone_after_the_limit_was_lowered_below_it() -> None:
    one = queue(max_tokens=40)
    put(one, ticket(lengths=[40]), ticket(lengths=[40]))
    one.limits = one.limits.halved(rows=1, tokens=40)
    assert [take(one).rows, take(one).rows] == [1, 1]
    put(one, ticket(lengths=[40]))


def test_the_oldest_row_rides_with_those_nearest_in_length() -> None:
    one = queue(max_rows=3)
    put(one, *(ticket(lengths=[length]) for length in (100, 8, 9, 101, 10, 99)))
    assert lengths_of(take(one)) == [99, 100, 101]
    assert lengths_of(take(one)) == [8, 9, 10]


def test_a_short_row_rides_with_long_ones_where_another_batch_costs_more_than_the_padding() -> None:
    tokens = [20, 30]
    apart, together = queue(), queue()
    apart.limits = BatchLimits(4, cost=BatchCost(fixed_ns=1.0, per_token_ns=1.0))
    together.limits = BatchLimits(4, cost=BatchCost(fixed_ns=1000.0, per_token_ns=1.0))
    for one in (apart, together):
        put(one, *(ticket(lengths=[length]) for length in tokens))
    assert (lengths_of(take(apart)), lengths_of(take(together))) == ([20], [20, 30])


def test_without_bucketing_rows_ride_in_the_order_they_came() -> None:
    one = queue(max_rows=3, bucketing=False)
    put(one, *(ticket(lengths=[length]) for length in (100, 8, 9, 101, 10, 99)))
    assert lengths_of(take(one)) == [8, 9, 100]
    assert lengths_of(take(one)) == [10, 99, 101]


def test_rows_of_a_request_that_follow_each_other_in_length_are_one_slice() -> None:
    one = queue(max_rows=8)
    put(one, ticket(lengths=[12, 10, 11, 10]))
    (part,) = take(one).slices
    assert part.rows == [1, 3, 2, 0]


def test_rows_of_equal_length_are_a_plain_slice() -> None:
    one = queue(max_rows=3)
    put(one, ticket(lengths=[7] * 5))
    assert [take(one).slices[0].rows, take(one).slices[0].rows] == [slice(2, 5), slice(0, 2)]


def test_a_batch_is_cut_down_to_a_preferred_size() -> None:
    one = queue(max_rows=32, preferred_sizes=(4, 8))
    put(one, *(ticket() for _ in range(11)))
    assert [(batch.rows, batch.reason) for batch in (take(one), take(one))] == [(8, Reason.FULL), (3, Reason.IDLE)]


@pytest.mark.parametrize("rows", [1, 3, 20], ids="{} rows a request".format)
@pytest.mark.parametrize("lengths", [None, [7], [9, 7, 8]], ids=["no lengths", "one length", "lengths that differ"])
def test_without_bucketing_a_batch_is_cut_down_to_a_preferred_size_too(lengths: list[int] | None, rows: int) -> None:
    one = queue(max_rows=32, preferred_sizes=(8, 16), bucketing=False)
    left = 20
    while left:
        asked = min(rows, left)
        put(one, ticket(asked, lengths=lengths and [lengths[row % len(lengths)] for row in range(asked)]))
        left -= asked
    waiting = one.waiting_requests
    batches = [take(one), take(one)]
    assert [(batch.rows, batch.reason) for batch in batches] == [(16, Reason.FULL), (4, Reason.IDLE)]
    assert len({(id(of), row) for batch in batches for of, row in rows_of(batch)}) == 20, "each row once"
    assert sum(len(one.done(batch)) for batch in batches) == waiting


def test_without_bucketing_the_preferred_size_is_that_of_both_priorities_together() -> None:
    one = queue(max_rows=32, preferred_sizes=(8, 16), bucketing=False)
    first, later = ticket(10), ticket(12, priority=Priority.LOW)
    put(one, later, first)
    assert [(part.ticket, len(part)) for part in take(one).slices] == [(first, 10), (later, 6)]
    assert [take(one).rows, one.waiting_rows] == [6, 0]


def test_without_bucketing_a_size_that_tokens_leave_no_room_for_is_not_reached() -> None:
    one = queue(max_rows=32, max_tokens=120, preferred_sizes=(8, 16), bucketing=False)
    put(one, *(ticket(lengths=[10]) for _ in range(20)))
    assert [take(one).rows for _ in range(3)] == [8, 8, 4]


# --------------------------------------------------------------------------- when it leaves


def test_without_a_delay_a_free_device_takes_what_waits() -> None:
    one = queue()
    put(one, ticket())
    assert one.due(5) == 5
    assert take(one, 5).reason == Reason.IDLE
    assert one.take(5, device_free=True) is None
    assert one.due(5) is None


def test_a_full_batch_says_so() -> None:
    one = queue(max_rows=2)
    put(one, ticket(), ticket())
    assert take(one).reason == Reason.FULL


def test_with_a_delay_a_free_device_waits_for_company() -> None:
    one = queue(max_delay_ns=100)
    put(one, ticket(at=10))
    assert one.take(109, device_free=True) is None
    assert one.due(50) == 110
    assert take(one, 110).reason == Reason.DELAY


def test_a_full_batch_does_not_wait_for_the_delay_whatever_waits_longer() -> None:
    one = queue(max_rows=2, max_delay_ns=100)
    put(one, ticket(key="a"), ticket(key="b"), ticket(key="b"))
    assert one.due(0) == 0
    batch = take(one)
    assert (batch.key, batch.reason) == ("b", Reason.FULL)
    assert one.take(0, device_free=True) is None


def test_the_wait_for_company_ends_in_time_for_the_earliest_deadline() -> None:
    one = queue(max_delay_ns=10_000)
    soon = ticket(at=1, deadline=1_000 + DEADLINE_SLACK_NS)
    put(one, ticket(), soon)
    begins = 1_000 - 2 * 102
    assert one.due(5) == begins
    assert one.take(begins - 1, device_free=True) is None
    batch = take(one, begins)
    assert batch.reason == Reason.DEADLINE
    assert (soon, 0) in rows_of(batch)


def test_a_deadline_counts_while_a_request_with_an_earlier_one_runs() -> None:
    one = queue(max_delay_ns=10_000)
    put(one, ticket(deadline=500))
    running = take(one, 499)
    put(one, ticket(at=499, deadline=5_000 + DEADLINE_SLACK_NS))
    before = one.due(499)
    one.done(running)
    assert before == one.due(499) == 5_000 - 2 * 101


def test_a_busy_device_gets_a_batch_ahead_only_when_it_is_full() -> None:
    one = queue(max_rows=2)
    put(one, ticket())
    assert one.take(0, device_free=False) is None
    put(one, ticket())
    assert take(one, device_free=False).rows == 2


def test_batches_ahead_do_not_pass_the_oldest_row_by() -> None:
    one = queue(max_rows=2)
    put(one, ticket(key="rare"), ticket(key="k"), ticket(key="k"))
    assert take(one, device_free=False).key == "rare"


# --------------------------------------------------------------------------- priorities


def test_high_priority_goes_first() -> None:
    one = queue(max_rows=1)
    put(one, ticket(priority=Priority.LOW), ticket(priority=Priority.HIGH))
    assert [rows_of(take(one))[0][0].priority for _ in range(2)] == [Priority.HIGH, Priority.LOW]


def test_low_priority_fills_up_a_batch_without_making_it_wider() -> None:
    one = queue(max_rows=4)
    low = [ticket(lengths=[length], priority=Priority.LOW) for length in (30, 29, 31)]
    put(one, *low, ticket(lengths=[30]))
    batch = take(one)
    assert (lengths_of(batch), batch.width) == ([29, 30, 30], 30)


def test_low_priority_goes_first_once_after_its_patience() -> None:
    one = queue(max_rows=1)
    put(one, ticket(priority=Priority.LOW), *(ticket() for _ in range(2 * PATIENCE)))
    order = [rows_of(take(one))[0][0].priority for _ in range(PATIENCE + 2)]
    assert order == [Priority.HIGH] * PATIENCE + [Priority.LOW, Priority.HIGH]


# --------------------------------------------------------------------------- what is refused


def test_a_queue_that_is_full_of_requests_refuses_the_next_one() -> None:
    one = queue(bounds=QueueBounds(max_requests=2, max_rows=100, max_bytes=100))
    put(one, ticket(), ticket())
    with pytest.raises(Overloaded, match="2 requests wait already") as refusal:
        one.put(ticket())
    assert refusal.value.retry_after_seconds > 0
    take(one)
    one.put(ticket())


def test_rows_count_and_not_only_requests() -> None:
    one = queue(bounds=QueueBounds(max_requests=100, max_rows=5, max_bytes=100))
    put(one, ticket(4))
    with pytest.raises(Overloaded, match="4 samples wait already, of at most 5"):
        one.put(ticket(2))
    put(one, ticket(1))


def test_bytes_count_until_nothing_of_a_request_runs_any_more() -> None:
    one = queue(bounds=QueueBounds(max_requests=100, max_rows=100, max_bytes=10))
    running = ticket(n_bytes=8)
    put(one, running)
    batch = take(one)
    one.cancel(running)
    with pytest.raises(Overloaded, match="8 bytes already, of at most 10"):
        one.put(ticket(n_bytes=3))
    one.done(batch)
    one.put(ticket(n_bytes=3))


@pytest.mark.parametrize("large", [ticket(6), ticket(n_bytes=11)])
def test_what_would_never_fit_is_too_large_and_not_only_early(large: Ticket) -> None:
    one = queue(bounds=QueueBounds(max_requests=100, max_rows=5, max_bytes=10))
    with pytest.raises(PayloadTooLarge, match="send fewer"):
        one.put(large)


@pytest.mark.parametrize("wrong", [Ticket("k", 0, 0, 0), Ticket("k", 2, 0, 0, [3]), Ticket("k", 1, 0, 0, [0])])
def test_a_ticket_whose_rows_and_lengths_do_not_agree_is_a_mistake_of_the_caller(wrong: Ticket) -> None:
    with pytest.raises(ValueError, match="row"):
        queue().put(wrong)


def test_a_refused_request_leaves_nothing_behind() -> None:
    one = queue(bounds=QueueBounds(max_requests=0, max_rows=5, max_bytes=10))
    with pytest.raises(Overloaded):
        one.put(ticket())
    assert (len(one), one.waiting_rows, one.held_bytes, one.has_work) == (0, 0, 0, False)


def test_the_backlog_is_the_time_that_the_device_needs_for_what_waits() -> None:
    one = queue(max_rows=2)
    put(one, ticket(lengths=[10, 20, 30]))
    assert one.backlog_ns() == 2 * 100 + 60


# --------------------------------------------------------------------------- how it ends


def test_an_expired_request_costs_nothing_and_is_told_once() -> None:
    one = queue()
    late, early = ticket(deadline=10), ticket()
    put(one, late, early)
    assert one.next_expiry() == 10
    assert rows_of(take(one, 10)) == [(early, 0)]
    assert (one.expire(10), one.expire(10)) == ([late], [])
    assert late.outcome == Outcome.EXPIRED


def test_a_request_expires_while_it_runs_and_is_not_answered_again() -> None:
    one = queue()
    late = ticket(deadline=10)
    put(one, late)
    batch = take(one)
    assert one.expire(9) == []
    assert one.expire(10) == [late]
    assert one.done(batch) == []


def test_a_cancelled_request_costs_nothing() -> None:
    one = queue()
    gone, stays = ticket(3), ticket()
    put(one, gone, stays)
    assert one.cancel(gone)
    assert not one.cancel(gone)
    assert (len(one), one.waiting_rows) == (1, 1)
    assert rows_of(take(one)) == [(stays, 0)]


def test_deadlines_of_requests_that_have_ended_are_forgotten() -> None:
    one = queue()
    for _ in range(1_000):
        put(one, ticket())
        one.done(take(one))
    assert len(one._deadlines) <= 64
    assert len(one._waiting_deadlines) <= 64
    assert one.next_expiry() is None


def test_keys_that_nothing_waits_for_are_forgotten() -> None:
    one = queue()
    for number in range(10):
        gone = ticket(key=number)
        put(one, gone, ticket(key=-number - 1))
        one.cancel(gone)
        take(one)
    assert not one._pools


# --------------------------------------------------------------------------- failures


def test_a_failed_batch_runs_again_in_halves_before_anything_else() -> None:
    one = queue(max_rows=4)
    old, new = [ticket() for _ in range(4)], ticket()
    put(one, *old)
    failed = take(one)
    put(one, new)
    assert one.fail(failed) == []
    halves = [take(one, device_free=False), take(one, device_free=False)]
    assert [[of for of, _ in rows_of(half)] for half in halves] == [old[:2], old[2:]]
    assert {half.reason for half in halves} == {Reason.RETRY}
    assert take(one).slices[0].ticket is new


def test_halves_of_a_half_run_before_the_other_half() -> None:
    one = queue(max_rows=4)
    put(one, *(old := [ticket() for _ in range(4)]))
    one.fail(take(one))
    one.fail(take(one))
    assert [of for _ in range(3) for of, _ in rows_of(take(one))] == old


def test_a_row_that_fails_after_its_request_has_ended_fails_nothing() -> None:
    one = queue()
    gone = ticket()
    put(one, gone)
    batch = take(one)
    one.cancel(gone)
    assert one.fail(batch) == []
    assert gone.outcome == Outcome.CANCELLED


def test_a_single_row_that_fails_fails_its_request_and_the_others_of_it_are_dropped() -> None:
    one = queue(max_rows=2)
    poisoned, good = ticket(4), ticket()
    put(one, poisoned, good)
    one.fail(take(one))
    assert one.fail(take(one)) == [poisoned]
    assert poisoned.outcome == Outcome.FAILED
    assert rows_of(batch := take(one)) == [(good, 0)]
    assert one.done(batch) == [good]
    assert not one.has_work


def test_rows_cancelled_after_their_batch_failed_do_not_run_again() -> None:
    one = queue(max_rows=4)
    gone, good = ticket(2), ticket(2)
    put(one, gone, good)
    one.fail(take(one))
    one.cancel(gone)
    assert rows_of(take(one)) == [(good, 0), (good, 1)]
    assert not one.has_work


def test_the_last_one_left_of_a_failed_batch_is_tried_alone_before_it_is_blamed() -> None:
    one = queue(max_rows=2)
    gone, good = ticket(), ticket()
    put(one, gone, good)
    batch = take(one)
    one.cancel(gone)
    assert one.fail(batch) == []
    assert one.done(take(one)) == [good]


def test_out_of_memory_halves_the_limit_and_runs_the_halves() -> None:
    one = queue(max_rows=8)
    put(one, *(ticket() for _ in range(9)))
    assert one.out_of_memory(take(one)) == []
    assert one.limits.max_rows == 4
    assert [take(one).rows for _ in range(3)] == [4, 4, 1]


def test_out_of_memory_halves_tokens_where_they_are_limited() -> None:
    one = queue(max_rows=8, max_tokens=400)
    put(one, ticket(lengths=[50] * 8))
    one.out_of_memory(take(one))
    assert (one.limits.max_rows, one.limits.max_tokens, one.limits.longest) == (8, 200, 400)


def test_two_batches_of_one_size_that_run_out_of_memory_halve_the_limit_once() -> None:
    one = queue(max_rows=8)
    put(one, ticket(16))
    first, second = take(one), take(one)
    one.out_of_memory(first)
    one.out_of_memory(second)
    assert one.limits.max_rows == 4


def test_a_single_row_that_does_not_fit_fails_its_request_and_leaves_the_limit() -> None:
    one = queue(max_rows=8)
    large = ticket()
    put(one, large)
    assert one.out_of_memory(take(one)) == [large]
    assert one.limits.max_rows == 8


def test_halves_are_cut_again_where_the_limit_was_lowered_meanwhile() -> None:
    one = queue(max_rows=8)
    put(one, ticket(8))
    one.fail(take(one))
    one.limits = BatchLimits(3)
    assert [take(one).rows for _ in range(4)] == [3, 1, 3, 1]
