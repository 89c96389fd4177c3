"""The CPU lane's engines: every request ends once, and what nobody waits for never runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from seaway.errors import Cancelled, DeadlineExceeded, InferenceFailed, InvalidRequest, Overloaded
from seaway.runtimes.base import RunHandle
from seaway.serving.cpu_lane import CpuLane
from seaway.serving.lane import Timing, refused_as
from seaway.serving.predictor import Payload, Reply

SECOND = 1_000_000_000
REPLY = Reply([b"{}"], 2, None, "application/json", "", 1)


class Entry:
    """A request; `act` is what the model does for it."""

    def __init__(self, act: Callable[[RunHandle], object] = lambda handle: None, seconds: float = 60.0) -> None:
        self.act = act
        self.arrived_ns = time.monotonic_ns()
        self.deadline_ns = self.arrived_ns + int(seconds * SECOND)
        self.doubtful = self.cancelled = False
        self.handle = RunHandle()
        self.prediction_id = "id"

    @property
    def payload(self) -> Payload:
        return self  # type: ignore[return-value]


class Predictor:
    def __init__(self, warm_seconds: float) -> None:
        self.ran: list[Any] = []
        self._warm_seconds = warm_seconds

    def warm_up(self) -> None:
        threading.Event().wait(self._warm_seconds)

    def answer(self, payload: Any, prediction_id: str, handle: RunHandle) -> tuple[Reply, int, int, int]:
        self.ran.append(payload)
        payload.act(handle)
        return REPLY, 1, 2, 3


class Harness:
    """A lane with everything that it has said."""

    def __init__(self, *, engines: int = 2, slow: bool = True, max_queue_size: int = 100) -> None:
        self.predictor = Predictor(0.012 if slow else 0.0)
        self.ends: dict[Any, list[Any]] = {}
        self.runs: dict[int, Any] = {}
        self.bound: set[int] = set()
        self.stood_in = threading.Event()
        self._changed = threading.Condition()
        self.lane = CpuLane(
            self.predictor,  # type: ignore[arg-type]
            engines=engines, max_queue_size=max_queue_size, owner=self,
        )  # fmt: skip
        self.lane.start()

    def answered(self, entry: Any, reply: Reply, timing: Timing) -> None:
        self._end(entry, timing)

    def refused(self, entry: Any, error: Exception) -> None:
        self._end(entry, error)

    def _end(self, entry: Any, outcome: Any) -> None:
        with self._changed:
            self.ends.setdefault(entry, []).append(outcome)
            self._changed.notify_all()

    def began(self, engine: int, entry: Any) -> None:
        self.runs[engine] = entry

    def ended(self, engine: int) -> None:
        del self.runs[engine]

    def bind(self, engine: int) -> None:
        self.bound.add(engine)

    def stand_in(self, still: Callable[[], bool]) -> None:
        if still():
            self.stood_in.set()

    def wait_for(self, *entries: Entry) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(entry in self.ends for entry in entries), 30)
        assert all(len(self.ends[entry]) == 1 for entry in entries)
        return [self.ends[entry][0] for entry in entries]


class Gate:
    """A model that runs until it is let go or stopped."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, handle: RunHandle) -> None:
        handle.begin(self.open.set)
        self.entered.set()
        assert self.open.wait(30)
        if handle.end():
            raise Cancelled("stopped")


def test_every_request_is_answered_once_by_some_engine() -> None:
    harness = Harness(engines=3)
    entries = [Entry() for _ in range(200)]
    for entry in entries:
        harness.lane.submit(entry)
    outcomes = harness.wait_for(*entries)
    assert all(isinstance(outcome, Timing) and outcome.infer_ns == 2 for outcome in outcomes)
    assert harness.bound == {0, 1, 2}
    assert not harness.lane.waiting


@pytest.mark.parametrize("solo", [False, True], ids=["engine thread", "main thread"])
def test_requests_whose_callers_may_have_left_run_after_all_others(solo: bool) -> None:
    harness = Harness(engines=1, slow=not solo)
    order: list[str] = []
    gate = Gate()
    first = Entry(gate if not solo else lambda handle: None)
    doubtful = [Entry(lambda handle: order.append("doubtful")) for _ in range(3)]
    others = [Entry(lambda handle: order.append("other")) for _ in range(3)]
    harness.lane.submit(first)
    if not solo:
        assert gate.entered.wait(30)
    for entry in (*doubtful, *others):
        harness.lane.submit(entry)
    for entry in doubtful:
        entry.doubtful = True
    gate.open.set()
    if solo:
        harness.lane.work_through()
    harness.wait_for(first, *doubtful, *others)
    assert order == ["other"] * 3 + ["doubtful"] * 3


def test_a_lane_that_is_closed_serves_those_that_let_others_go_first() -> None:
    harness = Harness(engines=2)
    gate = Gate()
    entries = [Entry(gate), Entry(gate), *(Entry() for _ in range(6))]
    for entry in entries:
        harness.lane.submit(entry)
    assert gate.entered.wait(30)
    for entry in entries[2:]:
        entry.doubtful = True
    harness.lane.close()
    gate.open.set()
    assert len(harness.wait_for(*entries)) == 8


def test_one_that_has_left_while_it_let_others_go_first_is_told_so_at_once() -> None:
    harness = Harness(engines=1)
    gates = [Gate(), Gate()]
    running, doubtful, other = Entry(gates[0]), Entry(), Entry(gates[1])
    for entry in (running, doubtful, other):
        harness.lane.submit(entry)
    doubtful.doubtful = True
    assert gates[0].entered.wait(30)
    gates[0].open.set()
    assert gates[1].entered.wait(30), "it was put off"
    assert (harness.lane.waiting, harness.lane.busy) == (1, True)

    harness.lane.cancel(doubtful)  # type: ignore[arg-type]

    assert isinstance(harness.wait_for(doubtful)[0], Cancelled)
    assert harness.lane.waiting == 0
    gates[1].open.set()
    harness.wait_for(running, other)


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("secret"), InferenceFailed), (MemoryError(), InferenceFailed), (RecursionError(), InvalidRequest)],
)
def test_a_run_that_fails_is_told_to_its_caller_and_the_engine_goes_on(error: Exception, told: type) -> None:
    def fail(handle: RunHandle) -> None:
        raise error

    harness = Harness(engines=1)
    bad, good = Entry(fail), Entry()
    harness.lane.submit(bad)
    harness.lane.submit(good)
    outcome, answer = harness.wait_for(bad, good)
    assert isinstance(refused_as(outcome, "id"), told)
    assert "secret" not in str(refused_as(outcome, "id"))
    assert isinstance(answer, Timing)


def test_a_request_whose_caller_left_or_whose_time_is_over_never_runs() -> None:
    harness, gate = Harness(engines=1), Gate()
    first, left, late, last = Entry(gate), Entry(), Entry(seconds=0), Entry()
    for entry in (first, left, late, last):
        harness.lane.submit(entry)
    assert gate.entered.wait(30)
    harness.lane.cancel(left)
    gate.open.set()
    _, one, other, _ = harness.wait_for(first, left, late, last)
    assert isinstance(one, Cancelled)
    assert isinstance(other, DeadlineExceeded)
    assert harness.predictor.ran == [first, last]


@pytest.mark.parametrize("leaves", [True, False])
def test_a_run_that_nobody_waits_for_is_stopped_and_no_other(leaves: bool) -> None:
    harness, gate, other = Harness(engines=2), Gate(), Gate()
    entry, bystander = Entry(gate), Entry(other, seconds=600)
    for one in (entry, bystander):
        harness.lane.submit(one)
    assert gate.entered.wait(30)
    assert other.entered.wait(30)
    if leaves:
        harness.lane.cancel(entry)
    later = time.monotonic_ns() + (0 if leaves else 100 * SECOND)
    harness.lane.watch(later)
    (outcome,) = harness.wait_for(entry)
    assert isinstance(outcome, Cancelled if leaves else DeadlineExceeded)
    assert bystander not in harness.ends
    other.open.set()
    assert isinstance(harness.wait_for(bystander)[0], Timing)


def test_how_long_a_run_ignores_that_it_should_end_is_known() -> None:
    harness, entered, released = Harness(engines=1), threading.Event(), threading.Event()

    def be_deaf(handle: RunHandle) -> None:
        entered.set()
        assert released.wait(30)

    deaf = Entry(be_deaf)
    harness.lane.submit(deaf)
    assert entered.wait(30)
    harness.lane.cancel(deaf)
    now = time.monotonic_ns()
    assert harness.lane.watch(now) == 0
    assert harness.lane.watch(now + 7 * SECOND) == 7 * SECOND
    released.set()
    harness.wait_for(deaf)


def test_what_the_queue_cannot_hold_is_refused_with_a_time_to_come_back() -> None:
    harness, gate = Harness(engines=1, max_queue_size=2), Gate()
    harness.lane.submit(running := Entry(gate))
    assert gate.entered.wait(30)
    now = time.monotonic_ns()
    assert harness.lane.refusal(now + SECOND, now) is None
    waiting = [Entry(), Entry()]
    for entry in waiting:
        harness.lane.submit(entry)
    refusal = harness.lane.refusal(now + SECOND, now)
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_seconds >= 0.1
    assert "max_queue_size" in str(refusal)
    gate.open.set()
    harness.wait_for(running, *waiting)


def test_a_request_that_would_wait_beyond_its_deadline_is_refused() -> None:
    harness, gate = Harness(engines=1), Gate()
    harness.lane.run_ns = 10 * SECOND
    harness.lane.submit(running := Entry(gate))
    assert gate.entered.wait(30)
    harness.lane.submit(waiting := Entry())
    now = time.monotonic_ns()
    assert "deadline" in str(harness.lane.refusal(now + SECOND, now))
    assert harness.lane.refusal(now + 100 * SECOND, now) is None
    gate.open.set()
    harness.wait_for(running, waiting)


def test_one_engine_with_a_fast_model_is_the_main_thread() -> None:
    assert Harness(engines=1, slow=False).lane.solo
    assert not Harness(engines=2, slow=False).lane.solo
    assert not Harness(engines=1).lane.solo


def test_a_turn_of_a_solo_lane_ends_so_that_answers_can_leave() -> None:
    harness = Harness(engines=1, slow=False)
    entries = [Entry() for _ in range(100)]
    for entry in entries:
        harness.lane.submit(entry)
    harness.lane.work_through()
    assert 1 <= len(harness.ends) <= 8
    while harness.lane.waiting:
        harness.lane.work_through()
    harness.wait_for(*entries)
    harness.lane.work_through()  # nothing waits: no harm


def test_a_long_run_of_a_solo_lane_has_somebody_stand_in_for_the_main_thread() -> None:
    harness = Harness(engines=1, slow=False)
    entry = Entry(lambda handle: harness.stood_in.wait(30))
    harness.lane.submit(entry)
    harness.lane.work_through()
    assert harness.stood_in.is_set()


def test_a_closed_lane_serves_what_waits_and_lets_its_threads_end() -> None:
    others = set(threading.enumerate())
    harness = Harness(engines=2)
    engines = set(threading.enumerate()) - others
    entries = [Entry() for _ in range(20)]
    for entry in entries:
        harness.lane.submit(entry)
    harness.lane.close()
    harness.wait_for(*entries)
    assert len(engines) == 2
    for thread in engines:
        thread.join(30)
        assert not thread.is_alive()
