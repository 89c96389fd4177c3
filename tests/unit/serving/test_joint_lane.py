"""The CPU lane's joint runs: what waits runs together, and everybody gets what a run alone would have given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import Cancelled, DeadlineExceeded, InferenceFailed, InvalidRequest
from seaway.inputs.base import Samples
from seaway.runtimes.base import RunHandle
from seaway.serving import joint_lane
from seaway.serving.joint_lane import JointLane
from seaway.serving.lane import Timing
from seaway.serving.predictor import Payload, Prepared
from seaway.types import JointRuns

SECOND = 1_000_000_000
BAD, MALFORMED = 404.0, -1.0
JOINT = JointRuns(rows=4, numbers=40, alone_ns=10 * SECOND, together_ns=SECOND)


class Entry:
    """A request for the doubles of some rows of numbers."""

    def __init__(self, *rows: Sequence[float], seconds: float = 60.0, name: str = "x", body: bytes = b"") -> None:
        self.rows = rows
        self.name = name
        self.body = body
        self.prepare: Callable[[], object] = lambda: None
        self.arrived_ns = time.monotonic_ns()
        self.deadline_ns = self.arrived_ns + int(seconds * SECOND)
        self.doubtful = self.cancelled = False
        self.handle = RunHandle()
        self.prediction_id = "id"

    @property
    def payload(self) -> Payload:
        return self  # type: ignore[return-value]

    @property
    def doubles(self) -> list[list[float]]:
        return [[2 * number for number in row] for row in self.rows]


class Session:
    """Doubles numbers; `script` is called with the rows of each run before."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.script: Callable[[Any, RunHandle], object] = lambda rows, handle: None

    def run(self, feeds: Mapping[str, Any], names: Sequence[str], handle: RunHandle) -> list[Any]:
        (rows,) = feeds.values()
        self.runs.append(len(rows))
        self.script(rows, handle)
        if (rows == BAD).any():
            raise InvalidRequest("404 is out of range.")
        return [rows * 2]


class Predictor:
    def __init__(self, warm_seconds: float) -> None:
        self.session = Session()
        self._warm_seconds = warm_seconds

    def warm_up(self) -> None:
        threading.Event().wait(self._warm_seconds)

    def prepare(self, payload: Any) -> Prepared:
        payload.prepare()
        rows = np.array(payload.rows, np.float32)
        if (rows == MALFORMED).any():
            raise InvalidRequest("No number.")
        return Prepared(Samples(({payload.name: rows},), len(rows), False), ("y",), None, "")

    def run(self, batch: Sequence[Prepared], handle: RunHandle) -> list[Any]:
        return [[self.session.run(prepared.samples.feeds[0], prepared.names, handle)] for prepared in batch]

    def encode(self, prepared: Prepared, outputs: Any, prediction_id: str) -> Any:
        return outputs[0][0].tolist()


class Harness:
    """A lane with everything that it has said. `solo`: nothing runs before `work`."""

    def __init__(self, joint: JointRuns = JOINT, *, engines: int = 1, solo: bool = True) -> None:
        self.predictor = Predictor(0.0 if solo else 0.012)
        self.session = self.predictor.session
        self.ends: dict[Any, list[Any]] = {}
        self.timings: dict[Any, Timing] = {}
        self.noted: list[int] = []
        self.busy: set[int] = set()
        self.come_back: list[Entry] = []
        """Who is there when the lane looks."""
        self._changed = threading.Condition()
        self.lane = JointLane(
            self.predictor,  # type: ignore[arg-type]
            joint, engines=engines, max_queue_size=1000, owner=self,
        )  # fmt: skip
        assert self.lane.solo is solo
        self.lane.start()

    def answered(self, entry: Any, reply: Any, timing: Timing) -> None:
        self.timings[entry] = timing
        self._end(entry, reply)

    def refused(self, entry: Any, error: BaseException) -> None:
        self._end(entry, error)

    def _end(self, entry: Any, outcome: Any) -> None:
        with self._changed:
            self.ends.setdefault(entry, []).append(outcome)
            self._changed.notify_all()

    def running_changed(self, entries: Sequence[Any]) -> None:
        self.noted.append(len(entries))

    def began(self, engine: int, entry: Any) -> None:
        assert engine not in self.busy
        self.busy.add(engine)

    def ended(self, engine: int) -> None:
        self.busy.remove(engine)

    def bind(self, engine: int) -> None:
        pass

    def stand_in(self, still: Callable[[], bool]) -> None:
        assert still()
        self.submit(*self.come_back)
        self.come_back = []

    def submit(self, *entries: Entry) -> None:
        for entry in entries:
            self.lane.submit(entry)

    def work(self) -> None:
        while self.lane.waiting:
            self.lane.work_through()

    def outcomes(self, *entries: Entry) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(entry in self.ends for entry in entries), 30)
        assert all(len(self.ends[entry]) == 1 for entry in entries)
        return [self.ends[entry][0] for entry in entries]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are counted here, and those that only compare, or find out whether a shape is sound, would count, too."""
    monkeypatch.setattr(joint_lane.JointLane, "_is_sound", lambda lane, rider: True)
    monkeypatch.setattr(joint_lane, "_CHECKED_FIRST", 0)
    monkeypatch.setattr(joint_lane, "_CHECKED_EVERY", 1 << 60)


def test_of_what_waits_half_runs_together_and_each_gets_its_own_rows() -> None:
    harness = Harness()
    entries = [Entry([number, number + 1]) for number in range(11)]
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert harness.session.runs == [4, 4, 2, 1], "a half, of as many as may run together, but no less than two"
    assert [harness.timings[entry].batch_rows for entry in entries] == [4] * 8 + [2] * 2 + [0]
    told = [harness.timings[entry].executions for entry in entries]
    assert [rows for executions in told for rows, _ in executions] == [4, 4, 2]
    assert harness.noted == [4, 0, 4, 0, 2, 0]
    assert not harness.busy
    assert not harness.lane.busy


def in_windows_of_four(rows: Any, handle: RunHandle) -> None:
    """A model that cuts all that it is given into windows."""
    if rows.size % 4:
        raise InvalidRequest("It can't be cut.")


def test_what_the_model_refuses_alone_is_never_answered_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    harness = Harness()
    harness.session.script = in_windows_of_four
    for _ in range(3):
        refused, answered = [Entry([1] * 6) for _ in range(4)], [Entry([2] * 8) for _ in range(4)]
        both = [Entry([3] * 6, [4] * 6) for _ in range(2)]  # these alone can be cut, which says nothing of half of them
        harness.submit(*both, *refused, *answered)
        harness.work()
        assert all(isinstance(outcome, InvalidRequest) for outcome in harness.outcomes(*refused))
        assert harness.outcomes(*answered, *both) == [entry.doubles for entry in (*answered, *both)]
    assert max(harness.session.runs) > 1


def test_a_shape_runs_alone_once_before_it_shares_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(joint_lane, "_CHECKED_FIRST", 0)
    monkeypatch.setattr(joint_lane, "_CHECKED_EVERY", 1 << 60)
    harness = Harness()
    entries = [Entry([number]) for number in range(5)]
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert harness.session.runs == [1, 2, 2]
    monkeypatch.setattr(joint_lane, "_MANY_SHAPES", 1)
    for width in (2, 3):
        harness.submit(*(entries := [Entry([1] * width) for _ in range(3)]))
        harness.work()
        assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert harness.session.runs == [1, 2, 2, 1, 2, 1, 2]


def test_a_comparison_that_is_refused_alone_ends_joint_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_lane, "_CHECKED_FIRST", 1)
    harness = Harness()
    harness.session.script = in_windows_of_four
    entries = [Entry([1] * 6), Entry([2] * 6)]
    harness.submit(*entries)
    harness.work()
    assert all(isinstance(outcome, InvalidRequest) for outcome in harness.outcomes(*entries))
    assert "refused alone" in harness.lane._joint.why


def test_a_caller_who_leaves_while_that_is_looked_at_is_refused_or_answered() -> None:
    class Leaving(Entry):
        looks = 0

        @property
        def cancelled(self) -> bool:
            if self in ran:
                self.looks += 1
            return self.looks > 1

        @cancelled.setter
        def cancelled(self, value: bool) -> None:
            pass

    ran: list[Entry] = []
    harness = Harness()
    entries = [Leaving([1]), Leaving([2])]
    harness.session.script = lambda rows, handle: ran.extend(entries)
    harness.submit(*entries)
    harness.work()
    assert len(harness.outcomes(*entries)) == 2


def test_one_that_finds_an_idle_engine_runs_alone() -> None:
    harness = Harness()
    entry = Entry([1])
    harness.submit(entry)
    harness.work()
    assert harness.outcomes(entry) == [[[2.0]]]
    timing = harness.timings[entry]
    assert (timing.batch_rows, timing.batch_ns, timing.executions, harness.noted) == (0, 0, (), [])


def test_requests_of_other_shapes_names_or_many_rows_run_apart_in_their_order() -> None:
    harness = Harness()
    order: list[int] = []
    harness.session.script = lambda rows, handle: order.append(int(rows[0, 0]))
    entries = [
        Entry([1]), Entry([2, 2]), Entry([3]), Entry([4], name="z"), Entry([5], [5], [5], [5], [5]), Entry([6, 6]),
        Entry([7], [7]), Entry([8], [8]),
    ]  # fmt: skip
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert order == [1, 2, 4, 5, 7]
    assert harness.session.runs == [2, 2, 1, 5, 4]


def test_those_who_have_just_been_answered_are_looked_for_before_the_next_run() -> None:
    harness = Harness()
    harness.submit(*(first := [Entry([number]) for number in range(4)]))
    harness.work()
    assert harness.outcomes(*first) == [entry.doubles for entry in first]
    again, *harness.come_back = others = [Entry([number]) for number in range(2)]
    harness.submit(again)
    harness.work()
    assert harness.outcomes(*others) == [entry.doubles for entry in others]
    assert harness.session.runs == [2, 2, 2]
    harness.come_back = [Entry([1])]
    harness.submit(*(enough := [Entry([number]) for number in range(2)]))
    harness.work()
    assert harness.outcomes(*enough) == [entry.doubles for entry in enough]
    assert len(harness.come_back) == 1, "nobody was looked for: as many were there"


@pytest.mark.parametrize(("engines", "waiting", "share"), [(1, 8, 4), (2, 7, 4), (4, 16, 4), (16, 16, 2), (1, 1, 2)])
def test_each_of_many_engines_leaves_the_others_their_share(engines: int, waiting: int, share: int) -> None:
    lane = JointLane(Predictor(0.012), JOINT, engines=engines, max_queue_size=99, owner=None)  # type: ignore[arg-type]
    for _ in range(waiting - 1):  # the first one was taken from the queue
        lane.submit(Entry([1]))
    assert lane._share() == share


def test_what_is_large_isnt_read_while_an_older_one_waits() -> None:
    harness = Harness()
    read: list[str] = []
    entries = [Entry([1]), Entry([2, 2], body=bytes(100_000)), Entry([3])]
    for name, entry in zip(("small", "large", "last"), entries, strict=True):
        entry.prepare = lambda name=name: read.append(name)  # type: ignore[misc]
    harness.session.script = lambda rows, handle: read.append(f"run of {len(rows)}")
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert read == ["small", "last", "run of 2", "large", "run of 1"]


def test_others_are_read_only_while_that_costs_less_than_the_run() -> None:
    harness = Harness(JointRuns(rows=4, numbers=40, alone_ns=2, together_ns=1))
    entries = [Entry([number]) for number in range(3)]
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert harness.session.runs == [1, 1, 1]


def test_an_idle_engine_takes_what_didnt_fit_into_another_ones_run() -> None:
    harness = Harness(engines=2, solo=False)
    first, second, other = Entry([1]), Entry([2]), Entry([3, 3])
    busy, other_answered = threading.Event(), threading.Event()
    holds = threading.Event()

    def run(rows: Any, handle: RunHandle) -> None:
        if rows[0, 0] == 2:  # the second engine is busy until `other` is being prepared
            holds.set()
            assert busy.wait(30)
        elif rows[0, 0] == 1:  # and the first one until `other` has its answer
            assert other_answered.wait(30)

    harness.session.script = run
    harness.submit(second)
    assert holds.wait(30)
    other.prepare = busy.set
    first.prepare = lambda: harness.submit(other)
    harness.submit(first)
    assert harness.outcomes(other) == [other.doubles]
    other_answered.set()
    assert harness.outcomes(first, second) == [first.doubles, second.doubles]


def test_what_a_run_could_have_held_counts_its_numbers() -> None:
    harness = Harness()
    harness.submit(Entry([1]), Entry([2]), *(Entry([1] * 20) for _ in range(2)), Entry([1] * 30), Entry([1] * 50))
    harness.work()
    assert harness.session.runs == [2, 2, 1, 1]
    counted = harness.lane.counters
    assert counted.reasons == {"idle": 1, "full": 3}
    assert counted.fill == 0.5 + 1 + 1 + 1


def test_large_samples_share_a_run_as_far_as_was_measured() -> None:
    harness = Harness()
    entries = [Entry([number] * 20) for number in range(4)]
    larger = [Entry([number] * 21) for number in range(2)]
    harness.submit(*entries, *larger)
    harness.work()
    assert harness.session.runs == [2, 2, 1, 1]


def test_one_that_the_model_refuses_spoils_no_others_and_they_run_alone_for_a_while() -> None:
    harness = Harness()
    entries = [Entry([1]), Entry([BAD]), Entry([2])]
    harness.submit(*entries)
    harness.work()
    first, refused, last = harness.outcomes(*entries)
    assert (first, last) == ([[2.0]], [[4.0]])
    assert isinstance(refused, InvalidRequest)
    more = [Entry([3]), Entry([4])]
    harness.submit(*more)
    harness.work()
    assert harness.outcomes(*more) == [[[6.0]], [[8.0]]]
    assert harness.session.runs == [2, 1, 1, 1, 1, 1]
    assert harness.lane._alone_until_ns > 0
    harness.lane._alone_until_ns = 0
    harness.submit(*(again := [Entry([3]), Entry([4])]))
    harness.work()
    assert harness.session.runs[6:] == [2]
    assert harness.outcomes(*again) == [[[6.0]], [[8.0]]]


@pytest.mark.parametrize(
    "wrong", [lambda rows: rows[:1] * 2, lambda rows: np.float32(7), None], ids=["one row", "a number", "a crash"]
)
def test_outputs_that_dont_count_the_samples_are_nobodys(wrong: Any) -> None:
    harness = Harness()
    run = harness.session.run

    def strange(feeds: Any, names: Any, handle: Any) -> Any:
        outputs = run(feeds, names, handle)
        (rows,) = feeds.values()
        return outputs if len(rows) == 1 else [np.asarray(wrong(rows))] if wrong else 1 / 0

    harness.session.run = strange  # type: ignore[method-assign]
    entries = [Entry([1]), Entry([2])]
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [[[2.0]], [[4.0]]]


def test_what_cant_be_read_is_refused_and_the_others_run_together() -> None:
    harness = Harness()
    entries = [Entry([1]), Entry([MALFORMED]), Entry([2])]
    harness.submit(*entries)
    harness.work()
    first, refused, last = harness.outcomes(*entries)
    assert (first, last, harness.session.runs) == ([[2.0]], [[4.0]], [2])
    assert isinstance(refused, InvalidRequest)


def test_those_that_have_left_or_come_too_late_dont_run() -> None:
    harness = Harness()
    entries = [Entry([1]), Entry([2], seconds=-1), Entry([3]), Entry([4, 4]), Entry([5])]
    harness.submit(*entries)
    harness.lane.cancel(entries[2])
    harness.session.script = lambda rows, handle: harness.lane.cancel(entries[3])
    harness.work()
    first, late, left, left_when_ready, last = harness.outcomes(*entries)
    assert (first, last, harness.session.runs) == ([[2.0]], [[10.0]], [2])
    assert isinstance(late, DeadlineExceeded)
    assert isinstance(left, Cancelled)
    assert isinstance(left_when_ready, Cancelled)


def test_doubtful_ones_run_alone_after_all_others() -> None:
    harness = Harness()
    doubtful, *others = entries = [Entry([number]) for number in range(4)]
    doubtful.doubtful = True
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert harness.session.runs == [2, 1, 1]
    assert list(harness.ends)[-1] is doubtful
    assert [harness.timings[entry].batch_rows for entry in others] == [2, 2, 0]


def test_one_with_little_time_doesnt_share_a_run() -> None:
    harness = Harness()
    harness.lane._together_ns = 30 * SECOND
    entries = [Entry([1]), Entry([2], seconds=100), Entry([3], seconds=100)]
    harness.submit(*entries)
    harness.work()
    assert harness.outcomes(*entries) == [[[2.0]], [[4.0]], [[6.0]]]
    assert harness.session.runs == [1, 2]


def test_a_run_is_stopped_when_the_time_of_one_is_over_and_the_others_run_alone() -> None:
    harness = Harness()
    entries = [Entry([1], seconds=40), Entry([2])]

    def overstay(rows: Any, handle: RunHandle) -> None:
        if len(rows) == 2:
            stopped: list[bool] = []
            handle.begin(lambda: stopped.append(True))
            assert harness.lane.watch(time.monotonic_ns()) == 0
            assert not stopped
            entries[0].deadline_ns = time.monotonic_ns() - 1
            harness.lane.watch(time.monotonic_ns() + 50 * SECOND)
            assert stopped
            assert handle.end()
            raise Cancelled("stopped")

    harness.session.script = overstay
    harness.submit(*entries)
    harness.work()
    late, other = harness.outcomes(*entries)
    assert isinstance(late, DeadlineExceeded)
    assert other == [[4.0]]


def test_a_run_goes_on_as_long_as_somebody_waits_for_it() -> None:
    harness = Harness()
    entries = [Entry([1]), Entry([2])]

    def leave(rows: Any, handle: RunHandle) -> None:
        stopped: list[bool] = []
        handle.begin(lambda: stopped.append(True))
        harness.lane.cancel(entries[0])
        harness.lane.watch(time.monotonic_ns())
        assert not stopped
        assert not handle.end()

    harness.session.script = leave
    harness.submit(*entries)
    harness.work()
    left, other = harness.outcomes(*entries)
    assert isinstance(left, Cancelled)
    assert other == [[4.0]]
    told = harness.timings[entries[1]].executions
    assert [rows for rows, _ in told] == [2]


def test_an_answer_that_is_another_one_in_company_is_found_out_and_nobody_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint_lane, "_CHECKED_FIRST", 1)
    harness = Harness()
    run = harness.session.run

    def mixing(feeds: Any, names: Any, handle: Any) -> Any:
        (found,) = run(feeds, names, handle)
        return [found + 0.01 * len(found)]

    harness.session.run = mixing  # type: ignore[method-assign]
    for _ in range(2):
        entries = [Entry([1]), Entry([2]), Entry([3])]
        harness.submit(*entries)
        harness.work()
        expected = [np.float32(2 * number) + np.float32(0.01) for number in (1, 2, 3)]
        assert [float(outcome[0][0]) for outcome in harness.outcomes(*entries)] == pytest.approx(expected, abs=1e-6)
    assert harness.session.runs == [2, 1, 1, 1, 1, 1, 1, 1]  # together, to compare, and then alone


def test_now_and_then_an_answer_is_compared_with_one_given_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_lane, "_CHECKED_FIRST", 1)
    monkeypatch.setattr(joint_lane, "_CHECKED_EVERY", 3)
    harness = Harness()
    for _ in range(6):
        harness.submit(Entry([1]), Entry([2]))
        harness.work()
    assert harness.session.runs == [2, 1, 2, 2, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_engine_threads_share_what_waits_and_answer_everything_once(engines: int) -> None:
    harness = Harness(engines=engines, solo=False)
    entries = [Entry([number] * (1 + number % 3)) for number in range(300)]
    all_wait = threading.Event()
    harness.session.script = lambda rows, handle: all_wait.wait(30)
    harness.submit(*entries)
    all_wait.set()
    assert harness.outcomes(*entries) == [entry.doubles for entry in entries]
    assert len(harness.session.runs) < 300
    harness.lane.close()
    counted = harness.lane.counters
    assert (counted.rows, counted.batches) == (300, len(harness.session.runs))


requests = st.tuples(st.integers(1, 3), st.integers(1, 6), st.sampled_from(["ok", "ok", "ok", "bad", "left", "late"]))


@given(st.lists(st.lists(requests, min_size=1, max_size=12), min_size=1, max_size=6), st.integers(2, 8))
def test_whatever_meets_in_a_run_everybody_is_answered_once_as_alone(
    waves: list[list[tuple[int, int, str]]], rows: int
) -> None:
    harness = Harness(JointRuns(rows=rows, numbers=16, alone_ns=10 * SECOND))
    numbers = iter(range(1_000_000))
    expected: dict[Entry, Any] = {}
    for wave in waves:
        for width, count, kind in wave:
            given_rows = [[float(next(numbers) % 400)] * width for _ in range(count)]
            if kind == "bad":
                given_rows[-1][0] = BAD
            entry = Entry(*given_rows, seconds=-1 if kind == "late" else 60)
            harness.submit(entry)
            if kind == "left":
                harness.lane.cancel(entry)
            errors = {"bad": InvalidRequest, "left": Cancelled, "late": DeadlineExceeded}
            expected[entry] = errors.get(kind, entry.doubles)
        harness.lane._alone_until_ns = 0
        harness.work()
        assert not harness.lane.busy
    for entry, outcome in zip(expected, harness.outcomes(*expected), strict=True):
        assert isinstance(outcome, expected[entry]) if isinstance(expected[entry], type) else outcome == expected[entry]
    assert max(harness.session.runs, default=0) <= max(rows, 6)


def test_an_answer_that_cant_be_written_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    encode = harness.predictor.encode

    def fails(prepared: Prepared, outputs: Any, prediction_id: str) -> Any:
        if outputs[0][0][0][0] == 4:
            raise InferenceFailed("no")
        return encode(prepared, outputs, prediction_id)

    monkeypatch.setattr(harness.predictor, "encode", fails)
    entries = [Entry([1]), Entry([2]), Entry([3])]
    harness.submit(*entries)
    harness.work()
    first, failed, last = harness.outcomes(*entries)
    assert (first, last) == ([[2.0]], [[6.0]])
    assert isinstance(failed, InferenceFailed)
