"""The batch lane's threads: every request ends once, whatever happens to its batch."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import structlog

from seaway.errors import Cancelled, DeadlineExceeded, DeviceLost, InvalidRequest, OutOfMemory, Overloaded
from seaway.inputs.base import Samples
from seaway.runtimes.base import RunHandle
from seaway.serving.batch_lane import BatchLane
from seaway.serving.batch_limits import AdaptiveLimits, BatchLimits
from seaway.serving.batching import QueueBounds
from seaway.serving.collate import Collator
from seaway.serving.lane import Timing
from seaway.serving.predictor import Payload, Prepared, Reply
from seaway.types import Signature, TensorSpec
from seaway.wire.oip import InferRequest

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),))
SECOND = 1_000_000_000
POISON = -1.0
Script = Callable[[Any, RunHandle], None]
"""What a device does with a batch before it doubles it."""


class Entry:
    """A request of rows with these numbers."""

    def __init__(self, *numbers: float, seconds: float = 60.0, timeout: int | None = None) -> None:
        """`timeout`: as the protocol's parameter says it, in µs."""
        self.numbers = numbers
        self.parameters = {} if timeout is None else {"timeout": timeout}
        self.arrived_ns = time.monotonic_ns()
        self.deadline_ns = self.arrived_ns + int(seconds * SECOND)
        self.cancelled = False
        self.prediction_id = "id"
        self.payload = Payload("predict", b"")

    @property
    def body(self) -> tuple[float, ...]:
        return self.numbers


class Session:
    """Doubles numbers, as `script` lets it; counts the largest batch."""

    device = "cpu"
    dtype = "fp32"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.batches: list[int] = []

    def check(self, feeds: Mapping[str, Any]) -> None:
        if (feeds["x"] == 404).any():
            raise InvalidRequest("404 is out of range.")

    def stage(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        return feeds

    def launch(self, staged: Mapping[str, Any], outputs: Sequence[str], handle: RunHandle) -> Any:
        self.batches.append(len(staged["x"]))
        self.script(staged["x"], handle)
        return staged["x"] * 2

    def collect(self, launched: Any) -> list[Any]:
        return [launched]

    def usage(self) -> None:
        return None


class Predictor:
    signature = SIGNATURE
    padding = None

    def __init__(self, session: Session) -> None:
        self.session = session
        self.entries: dict[int, Entry] = {}

    def prepare(self, payload: Payload) -> Prepared:
        entry = self.entries[id(payload)]
        numbers = entry.numbers
        request = InferRequest("", entry.parameters, (), None, False) if entry.parameters else None
        feeds = {"x": np.array(numbers, np.float32).reshape(-1, 1)}
        return Prepared(Samples((feeds,), len(numbers), False), ("y",), request, "")

    def encode(self, prepared: Prepared, outputs: Any, prediction_id: str) -> Any:
        return outputs[0][0].ravel().tolist()


class Harness:
    """A lane with everything that it has said."""

    def __init__(self, script: Script, *, max_rows: int = 8, max_requests: int = 1000, delay: float = 0.0) -> None:
        self.session = Session(script)
        self.predictor = Predictor(self.session)
        self.ends: dict[Entry, list[Any]] = {}
        self.running: list[int] = []
        self._changed = threading.Condition()
        limits = AdaptiveLimits(BatchLimits(max_rows, max_delay_ns=int(delay * SECOND)))
        bounds = QueueBounds(max_requests, 100_000, 1 << 30)
        self.lane = BatchLane(self.predictor, limits, bounds, owner=self, collator=Collator(None, {}))  # type: ignore[arg-type]
        self.lane.start()

    def answered(self, entry: Entry, reply: Reply, timing: Timing) -> None:
        self._end(entry, reply, timing)

    def refused(self, entry: Entry, error: Exception) -> None:
        self._end(entry, error, None)

    def running_changed(self, entries: list[Any]) -> None:
        self.running.append(len(entries))

    def _end(self, entry: Entry, outcome: Any, timing: Timing | None) -> None:
        with self._changed:
            self.ends.setdefault(entry, []).append((outcome, timing))
            self._changed.notify_all()

    def submit(self, *entries: Entry) -> None:
        for entry in entries:
            self.predictor.entries[id(entry.payload)] = entry
            self.lane.submit(entry)

    def wait_for(self, *entries: Entry) -> list[Any]:
        """How each of them ended, once."""
        with self._changed:
            assert self._changed.wait_for(lambda: all(entry in self.ends for entry in entries), 30)
        assert all(len(self.ends[entry]) == 1 for entry in entries)
        return [self.ends[entry][0][0] for entry in entries]


def nothing(x: Any, handle: RunHandle) -> None:
    pass


def poisoned(x: Any, handle: RunHandle) -> None:
    if (x == POISON).any():
        raise InvalidRequest("This number can't be computed.")


@pytest.fixture
def lanes() -> Iterator[list[BatchLane]]:
    opened: list[BatchLane] = []
    yield opened
    for lane in opened:
        lane.close()


def harness(lanes: list[BatchLane], script: Script = nothing, **options: Any) -> Harness:
    found = Harness(script, **options)
    lanes.append(found.lane)
    return found


class Gate:
    """A script that lets batches pass once it is opened, and tells when one has come."""

    def __init__(self) -> None:
        self.came, self.open = threading.Event(), threading.Event()

    def __call__(self, x: Any, handle: RunHandle) -> None:
        self.came.set()
        while not self.open.wait(0.001):
            if handle.terminated:
                raise Cancelled("The run was stopped.")


def is_due(entry: Entry, outcome: Any) -> bool:
    """Whether a request may have ended so."""
    if isinstance(outcome, list):
        return outcome == [2 * number for number in entry.numbers]
    if isinstance(outcome, InvalidRequest):
        return POISON in entry.numbers
    # Out of memory: a single row, tried alone.
    return isinstance(outcome, OutOfMemory) or (isinstance(outcome, Cancelled) and entry.cancelled)


def test_requests_that_come_while_the_device_is_busy_ride_together(lanes: list[BatchLane]) -> None:
    gate = Gate()
    one = harness(lanes, gate)
    first, *others = entries = [Entry(float(number)) for number in range(7)]
    one.submit(first)
    assert gate.came.wait(30)
    one.submit(*others)
    while one.lane._unprepared:
        time.sleep(0)
    gate.open.set()
    assert one.wait_for(*entries) == [[2.0 * number] for number in range(7)]
    assert one.session.batches == [1, 6]
    assert one.ends[entries[3]][0][1].batch_rows == 6
    assert one.running[-1] == 0


def test_a_request_of_more_rows_than_a_batch_takes_is_split_and_joined_in_order(lanes: list[BatchLane]) -> None:
    one = harness(lanes, max_rows=8)
    entry = Entry(*map(float, range(30)))
    one.submit(entry)
    assert one.wait_for(entry) == [[2.0 * number for number in range(30)]]
    assert max(one.session.batches) == 8


def test_a_row_that_fails_among_31_good_ones_fails_its_own_request_only(lanes: list[BatchLane]) -> None:
    gate = Gate()

    def script(x: Any, handle: RunHandle) -> None:
        gate(x, handle)
        poisoned(x, handle)

    one = harness(lanes, script, max_rows=32)
    plug, bad = Entry(0.0), Entry(POISON)
    one.submit(plug)
    assert gate.came.wait(30)
    good = [Entry(float(number)) for number in range(1, 32)]
    one.submit(*good[:15], bad, *good[15:])
    while one.lane._unprepared:
        time.sleep(0)
    gate.open.set()
    assert one.wait_for(*good) == [[2.0 * number] for number in range(1, 32)]
    (error,) = one.wait_for(bad)
    assert isinstance(error, InvalidRequest)
    assert one.session.batches[1] == 32
    assert len(one.session.batches) <= 2 + 2 * 5
    assert one.lane.counters.failed_rows == 1


def test_without_memory_for_a_batch_it_runs_in_halves_and_later_ones_are_smaller(lanes: list[BatchLane]) -> None:
    def script(x: Any, handle: RunHandle) -> None:
        if len(x) > 3:
            raise OutOfMemory("no room")

    one = harness(lanes, script, max_rows=16)
    first, second = Entry(*map(float, range(16))), Entry(*map(float, range(16)))
    one.submit(first)
    assert one.wait_for(first) == [[2.0 * number for number in range(16)]]
    assert one.lane.counters.out_of_memory >= 2
    one.session.batches.clear()
    one.submit(second)
    assert one.wait_for(second) == [[2.0 * number for number in range(16)]]
    assert max(one.session.batches) <= 3


def test_what_the_session_refuses_never_reaches_a_batch(lanes: list[BatchLane]) -> None:
    one = harness(lanes)
    bad, good = Entry(404.0), Entry(1.0)
    one.submit(bad, good)
    error, answer = one.wait_for(bad, good)
    assert isinstance(error, InvalidRequest)
    assert answer == [2.0]
    assert one.session.batches == [1]


def test_a_request_whose_time_is_over_is_told_so_and_never_runs(lanes: list[BatchLane]) -> None:
    gate = Gate()
    one = harness(lanes, gate)
    plug, late = Entry(1.0), Entry(2.0, seconds=3600)
    one.submit(plug)
    assert gate.came.wait(30)
    one.submit(late)
    while one.lane._unprepared:
        time.sleep(0)
    one.lane.watch(late.deadline_ns + 1)
    # The plug has the nearer deadline, and is over as well.
    assert all(isinstance(error, DeadlineExceeded) for error in one.wait_for(plug, late))
    gate.open.set()
    after = Entry(3.0)
    one.submit(after)
    assert one.wait_for(after) == [[6.0]]
    assert one.session.batches == [1, 1]


def test_the_protocol_s_timeout_counts_the_wait_for_company_too(lanes: list[BatchLane]) -> None:
    one = harness(lanes, delay=60.0)
    late, patient = Entry(1.0, timeout=1000), Entry(2.0)
    one.submit(late, patient)
    while late not in one.ends:
        one.lane.watch(time.monotonic_ns())
    assert isinstance(one.wait_for(late)[0], DeadlineExceeded)
    assert patient not in one.ends


def test_a_lane_that_is_about_to_end_waits_for_no_company(lanes: list[BatchLane]) -> None:
    one = harness(lanes, delay=60.0)
    early, late = Entry(1.0), Entry(2.0)
    one.submit(early)
    while not one.lane._queue.waiting_requests:
        time.sleep(0)
    assert early not in one.ends
    one.lane.hurry()
    assert one.wait_for(early) == [[2.0]]
    one.submit(late)
    assert one.wait_for(late) == [[4.0]]


def test_a_run_that_nobody_waits_for_any_more_is_stopped(lanes: list[BatchLane]) -> None:
    gate = Gate()
    one = harness(lanes, gate)
    entry = Entry(1.0)
    one.submit(entry)
    assert gate.came.wait(30)
    one.lane.cancel(entry)
    (error,) = one.wait_for(entry)
    assert isinstance(error, Cancelled)
    assert one.lane.watch(time.monotonic_ns()) == 0
    gate.open.clear()
    after = Entry(2.0)
    one.submit(after)  # the gate is closed: only the end of the first run lets this one begin
    while len(one.session.batches) < 2:
        time.sleep(0)
    gate.open.set()
    assert one.wait_for(after) == [[4.0]]


def test_more_requests_than_may_wait_are_refused_at_once(lanes: list[BatchLane]) -> None:
    gate = Gate()
    one = harness(lanes, gate, max_requests=3)
    entries = [Entry(float(number)) for number in range(4)]
    one.submit(entries[0])
    assert gate.came.wait(30)
    one.submit(*entries[1:])
    while one.lane._unprepared:
        time.sleep(0)
    refusal = one.lane.refusal(time.monotonic_ns() + SECOND, time.monotonic_ns())
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_seconds > 0
    gate.open.set()
    one.wait_for(*entries)
    assert one.lane.refusal(time.monotonic_ns() + SECOND, time.monotonic_ns()) is None


def test_with_a_lost_device_nothing_is_answered_since_another_process_can(lanes: list[BatchLane]) -> None:
    def script(x: Any, handle: RunHandle) -> None:
        raise DeviceLost("illegal memory access")

    one = harness(lanes, script)
    running, waiting = Entry(1.0), Entry(2.0)
    one.submit(running)
    while not one.lane.lost:
        time.sleep(0)
    one.submit(waiting)
    while one.lane._unprepared:
        time.sleep(0)
    assert one.lane.running_entries() == [running]
    assert one.ends == {}
    assert one.session.batches == [1]


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_requests_end_once_each_with_their_own_rows_whatever_befalls_their_batches(
    lanes: list[BatchLane], seed: int
) -> None:
    chance = random.Random(seed)
    lock = threading.Lock()

    def script(x: Any, handle: RunHandle) -> None:
        poisoned(x, handle)
        with lock:
            if chance.random() < 0.05:
                raise OutOfMemory("no room")

    one = harness(lanes, script, max_rows=16)
    entries = []
    for number in range(1000):
        numbers = [float(number * 100 + row) for row in range(chance.choice([1, 1, 1, 2, 5, 40]))]
        if chance.random() < 0.02:
            numbers[chance.randrange(len(numbers))] = POISON
        entries.append(Entry(*numbers))
    for entry in entries:
        one.submit(entry)
        if chance.random() < 0.1:
            one.lane.cancel(chance.choice(entries[: entries.index(entry) + 1]))
    for entry, outcome in zip(entries, one.wait_for(*entries), strict=True):
        assert is_due(entry, outcome)
    while one.lane.busy:
        time.sleep(0)
    assert one.lane.running == 0
    assert not one.lane._tickets


class Panic(BaseException):
    """What a library in another language raises when it gives up."""


@pytest.mark.parametrize("error", [Panic("gave up"), MemoryError(), RecursionError()])
def test_whatever_preparing_a_request_meets_with_the_next_one_is_prepared(
    error: BaseException, lanes: list[BatchLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = harness(lanes)
    bad, good = Entry(13.0), Entry(1.0)
    prepare = one.predictor.prepare

    def panics(payload: Payload) -> Prepared:
        if payload is bad.payload:
            raise error
        return prepare(payload)

    monkeypatch.setattr(one.predictor, "prepare", panics)
    one.submit(bad, good)
    outcome, answer = one.wait_for(bad, good)
    assert outcome is error
    assert answer == [2.0]
    assert not one.lane.lost


def test_a_tokenizer_that_hangs_is_noticed(lanes: list[BatchLane], monkeypatch: pytest.MonkeyPatch) -> None:
    one = harness(lanes)
    hangs, released = threading.Event(), threading.Event()

    def hang(payload: Payload) -> Prepared:
        hangs.set()
        assert released.wait(30)
        raise InvalidRequest("late")

    monkeypatch.setattr(one.predictor, "prepare", hang)
    entry = Entry(1.0)
    one.submit(entry)
    assert hangs.wait(30)
    assert one.lane.watch(entry.deadline_ns - 1) == 0
    assert one.lane.watch(entry.deadline_ns + 7 * SECOND) == 7 * SECOND
    released.set()
    one.wait_for(entry)
    assert one.lane.watch(entry.deadline_ns + 7 * SECOND) == 0


def test_a_lane_that_loses_a_thread_says_so(lanes: list[BatchLane], monkeypatch: pytest.MonkeyPatch) -> None:
    one = harness(lanes)
    monkeypatch.setattr(one.lane._queue, "take", None)
    one.submit(Entry(1.0))
    while not one.lane.lost:
        time.sleep(0)
    assert "device thread" in one.lane.lost


def test_outputs_that_cannot_be_given_out_fail_their_callers_and_nobody_else(
    lanes: list[BatchLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = harness(lanes, max_rows=4)
    scatter = one.lane._collator.scatter

    def fails(batch: Any, outputs: Any) -> Any:
        if (outputs[0] == 26.0).any():
            raise MemoryError
        return scatter(batch, outputs)

    monkeypatch.setattr(one.lane._collator, "scatter", fails)
    bad, good = Entry(13.0), [Entry(float(number)) for number in range(6)]
    bad.prediction_id = "the one at fault"
    with structlog.testing.capture_logs() as logged:
        one.submit(*good[:3], bad, *good[3:])
        assert one.wait_for(*good) == [[2.0 * number] for number in range(6)]
        one.wait_for(bad)
    assert isinstance(one.wait_for(bad)[0], MemoryError)
    assert one.lane.counters.failed_rows == 1
    assert [line["prediction_id"] for line in logged if line["event"] == "batch.row_failed"] == [bad.prediction_id]


def test_a_row_too_large_by_itself_makes_no_other_batch_smaller(lanes: list[BatchLane]) -> None:
    gate = Gate()

    def script(x: Any, handle: RunHandle) -> None:
        gate(x, handle)
        if (x == POISON).any():
            raise OutOfMemory("no room for this one")

    one = harness(lanes, script, max_rows=16)
    plug, huge = Entry(0.0), Entry(POISON)
    one.submit(plug)
    assert gate.came.wait(30)
    others = [Entry(float(number)) for number in range(15)]
    one.submit(*others[:7], huge, *others[7:])
    while one.lane._unprepared:
        time.sleep(0)
    gate.open.set()
    one.wait_for(*others)
    assert isinstance(one.wait_for(huge)[0], OutOfMemory)
    one.session.batches.clear()
    large = Entry(*map(float, range(16)))
    one.submit(large)
    one.wait_for(large)
    assert one.session.batches == [16]
