"""Gateways that run a model themselves while the server is asked for nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seaway.errors import DeadlineExceeded, InferenceFailed, InvalidRequest, SeawayError
from seaway.serving import assist, messages
from seaway.serving.assist import QUIET_NS, Assistant, Company
from seaway.serving.flight import InferCall, Prediction
from seaway.serving.inline import InlineVersion, Watchdog
from seaway.serving.isolation import ActivityPage
from seaway.serving.plane import DataPlane
from seaway.serving.pool import Result
from seaway.serving.predictor import Payload, Reply, TooLarge
from seaway.telemetry.page import NoMetrics
from seaway.types import InlineSpec, ServedVersion, Signature

LATER = 10 * QUIET_NS
SPEC = InlineSpec("", 1000, 8, 10_000_000, max_numbers=10, alone=True)
SERVED = ServedVersion("m", 1, 7, 0, 10_000, Signature((), ()), "onnx", (), 4, 30.0, inline=SPEC)
CALL = InferCall("m", None, "predict", b"{}")


@pytest.fixture
def page(tmp_path: Path) -> ActivityPage:
    return ActivityPage(tmp_path / "activity.page", 2)


# --------------------------------------------------------------------------- company


def test_a_model_is_alone_after_a_quiet_moment(page: ActivityPage) -> None:
    company = Company(page, 0)
    company.note("m", LATER)
    assert not company.alone("m", LATER + QUIET_NS - 1)
    company.note("m", LATER + 2 * QUIET_NS)
    assert company.alone("m", LATER + 2 * QUIET_NS)
    assert not company.alone("other", LATER + 2 * QUIET_NS)


@pytest.mark.parametrize("other", ["n", ""], ids=["another model", "anything else"])
def test_whatever_else_is_asked_for_ends_that_at_once(other: str, page: ActivityPage) -> None:
    company = Company(page, 0)
    company.note("m", LATER)
    now = LATER + 2 * QUIET_NS
    company.note("m", now)
    assert company.alone("m", now)
    company.note(other, now + 1)
    company.note("m", now + 2)
    assert not company.alone("m", now + 2)
    company.note("m", now + 2 + 2 * QUIET_NS)
    assert company.alone("m", now + 2 + 2 * QUIET_NS)


def test_what_another_gateway_is_asked_for_is_company_too_until_it_is_quiet(page: ActivityPage) -> None:
    mine, theirs = Company(page, 0), Company(page, 1)
    mine.note("m", LATER)
    theirs.note("n", LATER + QUIET_NS)
    assert not mine.alone("m", LATER + 2 * QUIET_NS - 1)
    assert mine.alone("m", LATER + 3 * QUIET_NS)
    theirs.note("m", LATER + 3 * QUIET_NS)
    assert not mine.alone("m", LATER + 3 * QUIET_NS + QUIET_NS // 2), "it has only just come to this model"
    theirs.note("m", LATER + 5 * QUIET_NS)
    assert mine.alone("m", LATER + 5 * QUIET_NS)


# --------------------------------------------------------------------------- the engine


class Script:
    """A predictor that answers by calling `then`; requests have as many numbers as their body is long."""

    def __init__(self) -> None:
        self.ran: list[bytes] = []
        self.then: Callable[[], None] = lambda: None

    def answer(
        self, payload: Payload, prediction_id: str, handle: object, max_rows: int, max_numbers: int | None
    ) -> tuple[Reply, int, int, int]:
        body = bytes(payload.body)
        if max_numbers is not None and len(body) > max_numbers:
            raise TooLarge(len(body))
        self.ran.append(body)
        self.then()
        return Reply([b"ok:" + body], 3 + len(body), None, "application/json", "", 1), 1, 2, 3


class Workers(DataPlane):
    """A data plane whose workers answer when told to."""

    def __init__(self, page: ActivityPage) -> None:
        super().__init__(index=0, page=NoMetrics(), random=lambda: 0.0)
        self.assistant = Assistant(self, page, 0)
        self.script = Script()
        self.watchdog = Watchdog(self.move_out)
        version = InlineVersion(SERVED, SPEC, self.script, self.watchdog)  # type: ignore[arg-type]
        self._assisted["m"] = version
        self.sent: list[tuple[InferCall, Any]] = []
        self.counted: list[str] = []

    def send(self, request: InferCall, done: Any, started: int) -> Any:
        self.sent.append((request, done))
        return Sent()

    def count(self, served: Any, outcome: str, answer: Any, total_ns: int) -> None:
        self.counted.append(outcome)

    def be_alone(self) -> None:
        assert self.assistant is not None
        self.assistant.company.note("m", time.monotonic_ns() - 2 * QUIET_NS)


class Sent:
    over = False
    doubted = cancelled = False

    def doubt(self) -> None:
        self.doubted = True

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def plane(page: ActivityPage) -> Workers:
    return Workers(page)


class Caller:
    def __init__(self) -> None:
        self.got: list[Prediction | SeawayError] = []

    def __call__(self, outcome: Prediction | SeawayError) -> None:
        self.got.append(outcome)

    @property
    def body(self) -> bytes:
        (answer,) = self.got
        assert isinstance(answer, Prediction)
        return bytes(answer.result.body)


def call(body: bytes, **more: Any) -> InferCall:
    return InferCall("m", None, "predict", body, **more)


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_alone_it_runs_here_one_request_in_each_turn(plane: Workers) -> None:
    plane.be_alone()
    callers = [Caller() for _ in range(3)]
    for number, caller in enumerate(callers):
        flight = plane.start(call(b"%d" % number), caller, plain=True)
        assert not flight.over
    assert plane.script.ran == []
    ran = []
    for _ in range(6):
        await asyncio.sleep(0)
        ran.append(len(plane.script.ran))
    assert [after - before for before, after in zip([0, *ran], ran, strict=False)].count(1) == 3
    assert max(after - before for before, after in zip([0, *ran], ran, strict=False)) == 1
    assert [caller.body for caller in callers] == [b"ok:0", b"ok:1", b"ok:2"]
    assert (plane.sent, plane.counted) == ([], ["ok"] * 3)


@pytest.mark.parametrize(
    ("request_", "plain"),
    [(call(b"1"), False), (call(b"1" * 1001), True), (InferCall("n", None, "predict", b"1"), True)],
    ids=["not plain", "too large", "another model"],
)
async def test_what_it_may_not_run_goes_to_the_workers(request_: InferCall, plain: bool, plane: Workers) -> None:
    plane.be_alone()
    plane.start(request_, Caller(), plain=plain)
    await turns()
    assert (len(plane.sent), plane.script.ran) == (1, [])


async def test_in_company_everything_goes_to_the_workers_also_what_waits(plane: Workers) -> None:
    plane.be_alone()
    for _ in range(3):
        plane.start(call(b"1"), Caller(), plain=True)
    plane.start(InferCall("n", None, "predict", b"2"), Caller(), plain=True)
    await turns()
    assert plane.script.ran == []
    assert [request.body for request, _ in plane.sent] == [b"2", b"1", b"1", b"1"]


async def test_more_than_may_wait_goes_to_the_workers(plane: Workers) -> None:
    plane.be_alone()
    for _ in range(6):
        plane.start(call(b"1"), Caller(), plain=True)
    assert len(plane.sent) == 6 - SERVED.max_queue_size
    await turns()
    assert len(plane.script.ran) == SERVED.max_queue_size


async def test_a_request_whose_time_is_over_does_not_run(plane: Workers) -> None:
    plane.be_alone()
    caller = Caller()
    plane.start(call(b"1", timeout_seconds=1e-9), caller, plain=True)
    await turns()
    assert isinstance(caller.got[0], DeadlineExceeded)
    assert (plane.script.ran, plane.counted) == ([], ["deadline"])


async def test_who_has_left_costs_nothing_and_is_counted_once(plane: Workers) -> None:
    plane.be_alone()
    caller = Caller()
    flight = plane.start(call(b"1"), caller, plain=True)
    flight.cancel()
    flight.cancel()
    await turns()
    assert (caller.got, plane.script.ran, plane.counted, flight.over) == ([], [], ["cancelled"], True)


async def test_who_may_have_left_is_left_to_the_workers_where_others_go_first(plane: Workers) -> None:
    plane.be_alone()
    flight = plane.start(call(b"1"), Caller(), plain=True)
    flight.doubt()
    await turns()
    assert (len(plane.sent), plane.script.ran) == (1, [])
    assert flight._flight.doubted  # type: ignore[union-attr]
    flight.cancel()
    assert flight._flight.cancelled  # type: ignore[union-attr]


async def test_what_callers_do_wrong_is_told_them(plane: Workers) -> None:
    def refuse() -> None:
        raise InvalidRequest("no")

    plane.script.then = refuse
    plane.be_alone()
    caller = Caller()
    plane.start(call(b"1"), caller, plain=True)
    await turns()
    assert isinstance(caller.got[0], InvalidRequest)
    assert plane.counted == ["invalid"]


def answered_by_worker(plane: Workers, took_ns: int) -> None:
    """A worker answers the oldest request that was sent to it, after so long."""
    _, done = plane.sent.pop(0)
    answer = messages.Answer(None, 0.0, None, "application/json", "", 0, 0, took_ns, 0, 1)
    done(Prediction(Result(answer, b"by a worker"), SERVED, "id", 1))


async def ask(plane: Workers, body: bytes, took_ns: int) -> bytes:
    """The answer to a request; if it goes to a worker, that takes so long."""
    caller = Caller()
    plane.start(call(body), caller, plain=True)
    await turns()
    if plane.sent:
        answered_by_worker(plane, took_ns)
    return caller.body


SHORT, LONG = 1_000_000, 50_000_000


@pytest.mark.parametrize("times", [[SHORT], [LONG] * 7 + [SHORT]], ids=["at once", "once the machine was quiet"])
async def test_a_size_runs_here_once_a_worker_has_shown_that_it_takes_little(times: list[int], plane: Workers) -> None:
    plane.be_alone()
    for took in times:
        assert await ask(plane, b"1" * 11, took) == b"by a worker"
    assert await ask(plane, b"1" * 11, 0) == b"ok:" + b"1" * 11
    assert plane.script.ran == [b"1" * 11]


async def test_what_workers_found_too_slow_again_and_again_is_not_read_here_for_longer_and_longer(
    plane: Workers,
) -> None:
    version, now = plane._assisted["m"], 1000
    for pause in [1, 2, 4, 8, 16, 32, 64, 64]:
        for _ in range(8):
            assert version.takes(400, None, now)
            version.learn(400, 10, 400, None, LONG, now)
        assert not version.takes(400, None, now + pause * 10**9 - 1)
        assert not version.takes(410, None, now), "nor is what is nearly as large"
        assert version.takes(400, 100, now), "binary, that is something else"
        assert version.takes(300, None, now)
        assert version.takes(600, None, now), "in JSON as many numbers may have fewer digits"
        now += pause * 10**9
    assert version.takes(400, None, now)
    version.learn(400, 10, 400, None, SHORT, now)
    for _ in range(7):
        version.learn(401, 10, 401, None, LONG, now)
    assert version.takes(400, None, now)
    version.learn(401, 10, 401, None, LONG, now)
    assert version.takes(400, None, now + 10**9), "the pauses begin with a second again"


async def test_answers_that_come_after_it_was_learned_count_no_more(plane: Workers) -> None:
    version = plane._assisted["m"]
    version.learn(400, 10, 400, None, SHORT, 1)
    for _ in range(20):
        version.learn(400, 10, 400, None, LONG, 1)
    assert version.takes(400, None, 2)


async def test_what_has_too_many_rows_bars_nothing_else(plane: Workers) -> None:
    fixed = InlineSpec("", 1000, 2, 10_000_000, max_numbers=None, alone=True)
    version = InlineVersion(SERVED, fixed, plane.script, plane.watchdog)  # type: ignore[arg-type]
    for _ in range(20):
        version.learn(3, None, 120, None, SHORT, 1)
    assert not version.takes(120, None, 2)
    assert version.takes(200, None, 2)
    assert version.takes(120, None, 2 + 2 * 10**9)


async def test_small_ones_between_do_not_have_large_ones_read_in_vain_for_ever(plane: Workers) -> None:
    version = plane._assisted["m"]
    for _ in range(8):
        version.learn(3, 10, 30, None, SHORT, 1)  # too many rows, of few numbers
        version.learn(900, 10, 900, None, LONG, 1)
    assert not version.takes(900, None, 2)


def noted_other(page: ActivityPage) -> Company:
    """Another gateway's, which is asked for this model only."""
    other = Company(page, 1)
    now = time.monotonic_ns()
    other.note("m", now - 2 * QUIET_NS)
    other.note("m", now)
    return other


async def test_while_workers_run_what_is_too_large_here_no_gateway_runs_the_model(
    page: ActivityPage, plane: Workers
) -> None:
    other = noted_other(page)
    plane.be_alone()
    for _ in range(8):
        await ask(plane, b"1" * 11, LONG)
    assert other.alone("m", time.monotonic_ns()), "so far it is being found out"
    for _ in range(2):
        await ask(plane, b"1" * 11, LONG)
    assert not other.alone("m", time.monotonic_ns() + 2 * assist._LOOK_NS)
    await ask(plane, b"1", LONG)
    assert plane.script.ran == []


async def test_a_request_now_and_then_that_can_t_run_here_leaves_all_else_as_it_is(
    page: ActivityPage, plane: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = noted_other(page)
    plane.be_alone()
    monkeypatch.setattr(assist, "_OFTEN_NS", 0)
    for _ in range(3):
        plane.start(call(b"1"), Caller(), plain=False)
    assert other.alone("m", time.monotonic_ns() + 2 * assist._LOOK_NS)
    monkeypatch.setattr(assist, "_OFTEN_NS", 10**12)
    plane.start(call(b"1"), Caller(), plain=False)
    assert not other.alone("m", time.monotonic_ns() + 4 * assist._LOOK_NS)


async def test_where_one_gateway_can_t_run_the_model_none_does(page: ActivityPage, plane: Workers) -> None:
    other = noted_other(page)
    plane._assisted.clear()
    plane._unassisted.add("m")
    for _ in range(2):
        plane.start(call(b"1"), Caller(), plain=True)
    assert not other.alone("m", time.monotonic_ns() + 2 * assist._LOOK_NS)


async def test_a_run_that_was_stopped_for_long_doesn_t_keep_this_gateway_from_lending_a_hand(plane: Workers) -> None:
    plane.be_alone()
    assert plane.assistant is not None
    plane.assistant._run_ns = 10**9
    for _ in range(100):
        plane.start(call(b"1", timeout_seconds=0.5), Caller(), plain=True)
        await turns()
    assert plane.script.ran


async def test_a_new_table_sends_what_waits_to_the_workers(plane: Workers) -> None:
    plane.be_alone()
    plane.start(call(b"1"), Caller(), plain=True)
    assert plane.assistant is not None
    plane.assistant.hand_over()
    await turns()
    assert (len(plane.sent), plane.script.ran) == (1, [])


def test_a_version_in_whose_runs_two_gateways_died_runs_in_none(page: ActivityPage, plane: Workers) -> None:
    refusals = []
    for _ in range(3):
        assistant = Assistant(plane, page, 1)
        refusals.append(bool(assistant.refuses(7)))
        page.set_running(1, 7)  # and killed
    assert refusals == [False, False, True]
    page.set_running(1, 0)
    assert Assistant(plane, page, 1).refuses(7)
    assert not Assistant(plane, page, 1).refuses(8)
    assert Assistant(plane, page, 0).refuses(7)


DAY_NS = 24 * 3600 * 10**9


def die(page: ActivityPage, gateway: int, revision: int, now_ns: int) -> int:
    """This gateway dies in a run of `revision`, and another one follows it: the deaths in that revision then."""
    page.set_running(gateway, revision)
    assert page.begin_life(gateway, now_ns) == revision
    return page.deaths(revision, now_ns)


def test_deaths_of_different_gateways_count_together(page: ActivityPage) -> None:
    assert die(page, 0, 7, 1) == 1
    assert die(page, 1, 8, 2) == 1
    assert die(page, 1, 7, 3) == 2
    assert die(page, 1, 7, 2 + DAY_NS) == 2, "the other one's was longer ago"


def test_versions_that_kill_by_turns_are_each_told_at_the_second_death(page: ActivityPage) -> None:
    rounds = [[die(page, now % 2, revision, now) for revision in (7, 8, 9, 10)] for now in (1, 2)]
    assert rounds == [[1] * 4, [2] * 4]


def test_where_ever_so_many_versions_have_killed_none_runs_here(page: ActivityPage, plane: Workers) -> None:
    now = time.monotonic_ns()
    for revision in range(100, 131):
        die(page, 1, revision, now)
    assert not Assistant(plane, page, 0).refuses(7)
    for revision in range(131, 135):
        die(page, 1, revision, now)
    assert Assistant(plane, page, 0).refuses(7)
    assert page.deaths(7, now + DAY_NS) == 0


@pytest.mark.parametrize("error", [None, InvalidRequest("no"), InferenceFailed("no")])
def test_an_inline_run_is_noted_for_as_long_as_it_takes_however_it_ends(
    error: SeawayError | None, page: ActivityPage, plane: Workers
) -> None:
    noted = []

    def run() -> None:
        noted.append(page.running(0)[0])
        if error is not None:
            raise error

    plane.script.then = run
    version = plane._assisted["m"]
    plane.answer_inline(version, CALL, b"{}")
    assert noted == [7]
    assert page.begin_life(0, 1) == 0, "who dies between two runs blames nobody"


def test_deaths_count_while_loading_too_but_not_those_of_another_day(page: ActivityPage) -> None:
    for now in (1, 2):
        page.set_loading(0, 7)
        assert page.begin_life(0, now) == 7
        assert page.deaths(7, now) == now
    assert die(page, 0, 7, 3 + DAY_NS) == 1
    page.set_loading(0, 0)
    assert page.begin_life(0, 4 + DAY_NS) == 0
    assert page.deaths(7, 4 + DAY_NS) == 1


async def test_a_run_that_breaks_in_a_way_nobody_thought_of_is_a_worker_s_and_the_others_have_their_turn(
    plane: Workers,
) -> None:
    class Broken(Exception):
        pass

    def fail_in_done(outcome: object) -> None:
        raise Broken

    plane.be_alone()
    caller = Caller()
    plane.start(call(b"1"), fail_in_done, plain=True)
    plane.start(call(b"2"), caller, plain=True)
    await turns()
    assert caller.body == b"ok:2"


async def test_a_version_that_is_moved_out_runs_no_more_of_what_waits(plane: Workers) -> None:
    plane.be_alone()
    plane.script.then = lambda: plane.move_out(SERVED, "it overstayed")
    for _ in range(4):
        plane.start(call(b"1"), Caller(), plain=True)
    await turns()
    assert len(plane.script.ran) == 1
    assert len(plane.sent) == 3


async def test_a_learned_size_that_takes_too_long_in_another_shape_is_unlearned_first(plane: Workers) -> None:
    version = plane._assisted["m"]
    version.learn(500, 10, 500, None, 1, 1)
    assert version.max_numbers == 500
    version._handle.terminate()
    version._fail(InferenceFailed("ended"))
    assert version.max_numbers == SPEC.max_numbers
    version.learn(500, 10, 500, None, 1, 1)
    assert version.max_numbers == SPEC.max_numbers
    moved: list[str] = []
    plane.on_moved_out = lambda served, reason: moved.append(reason)
    version._handle.terminate()
    version._fail(InferenceFailed("ended"))
    assert len(moved) == 1


async def test_a_run_is_noted_for_as_long_as_it_takes(page: ActivityPage, plane: Workers) -> None:
    seen: list[int] = []
    plane.script.then = lambda: seen.append(page.begin_life(0, 1))
    plane.be_alone()
    plane.start(call(b"1"), Caller(), plain=True)
    await turns()
    assert seen == [7]
    assert page.begin_life(0, 2) == 0, "nothing is noted any more"
