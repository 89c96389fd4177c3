"""A gateway's pool against scripted workers on real Unix sockets: every call ends exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.errors import DeadlineExceeded, InvalidRequest, Overloaded, SeawayError, WorkerLost
from seaway.serving import messages
from seaway.serving.page import WorkerPage
from seaway.serving.pool import Call, Pool, Rerouted, Result
from seaway.types import ServedVersion, ServingSettings, Signature, WorkerAddress

GATEWAY = 0
_numbers = itertools.count(1)


class ScriptedWorker:
    """Reads frames and answers only when told to."""

    def __init__(self, directory: Path) -> None:
        name = f"w{next(_numbers)}"
        self.address = WorkerAddress(name, str(directory / f"{name}.sock"), str(directory / f"{name}.page"), engines=1)
        self.page = WorkerPage.create(Path(self.address.page), engines=1)
        self.frames: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._dead = False

    async def start(self) -> ScriptedWorker:
        self._server = await asyncio.start_unix_server(self._serve, self.address.socket)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._dead:
            writer.transport.abort()
        frames = messages.FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for frame in frames.feed(data):
                    if frame.kind != messages.HELLO:
                        self.frames.put_nowait((frame.kind, frame.request_id, bytes(frame.body)))

    async def accepted(self) -> None:
        """asyncio forgets a connection whose server is closed between accepting it and serving it."""
        async with asyncio.timeout(5):
            while not self._writers:  # noqa: ASYNC110 - one turn of the loop, not a sleep
                await asyncio.sleep(0)

    async def next(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(5):
            return await self.frames.get()

    def answer(self, request_id: int, body: bytes = b"ok", *, error: tuple[str, str] | None = None) -> None:
        meta = messages.Answer(error, 0.5, None, "application/json", "", 1, 2, 3, 4, 1)
        self._writers[-1].write(messages.pack(messages.ANSWER, meta, request_id=request_id, size=len(body)) + body)

    def die(self, *, while_running: int | None = None) -> None:
        if while_running is not None:
            self.page.begin(0, GATEWAY, while_running)
        self._dead = True
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()


class Stage:
    """Workers and pools of one scenario; everything is closed at its end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._workers: list[ScriptedWorker] = []
        self._pools: list[Pool] = []

    async def worker(self) -> ScriptedWorker:
        self._workers.append(await ScriptedWorker(self._directory).start())
        return self._workers[-1]

    async def pool(
        self, *workers: ScriptedWorker, max_queue_size: int = 4, batching: ServingSettings | None = None
    ) -> Pool:
        pool = Pool(replace(served(*workers, max_queue_size=max_queue_size), batching=batching), GATEWAY)
        self._pools.append(pool)
        await pool.update(pool.served)
        for worker in workers:
            await worker.accepted()
        return pool

    async def close(self) -> None:
        for pool in self._pools:
            pool.retire()
        for worker in self._workers:
            worker.die()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=1) if others else None
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    # pytest's own temporary paths are longer than a Unix socket's address may be.
    with tempfile.TemporaryDirectory() as path:
        stage = Stage(Path(path))
        try:
            yield stage
        finally:
            await stage.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as one:
        yield one


def served(*workers: ScriptedWorker, max_queue_size: int = 4) -> ServedVersion:
    addresses = tuple(worker.address for worker in workers)
    return ServedVersion("m", 1, 1, 0, 10_000, Signature((), ()), "onnx", addresses, max_queue_size, 30.0)


class Waiting(Call):
    """A call whose outcome can be awaited."""

    future: asyncio.Future[Result]


def call(number: int, *, seconds: float = 5.0, body: bytes = b"{}") -> Waiting:
    meta = messages.Predict("id", "predict", None, "", "", "")
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(outcome: Result | SeawayError) -> None:
        assert not future.done() or future.cancelled(), "a call ended twice"
        if isinstance(outcome, Result):
            future.set_result(Result(outcome.answer, bytes(outcome.body)))
        elif not future.cancelled():
            future.set_exception(outcome)

    one = Waiting(number, time.monotonic_ns() + int(seconds * 1e9), meta, body, done)
    one.future = future
    return one


async def test_an_answer_reaches_its_own_caller_whatever_the_order(stage: Stage) -> None:
    worker = await stage.worker()
    pool = await stage.pool(worker)
    calls = [call(number, body=b"%d" % number) for number in (1, 2, 3)]
    for one in calls:
        pool.submit(one)
    seen = [await worker.next() for _ in calls]
    for _, number, body in reversed(seen):
        worker.answer(number, b"answer to " + body)
    assert [(await one.future).body for one in calls] == [b"answer to 1", b"answer to 2", b"answer to 3"]


async def test_a_worker_s_refusal_is_raised_as_it_was_meant(stage: Stage) -> None:
    worker = await stage.worker()
    pool = await stage.pool(worker)
    one, two = call(1), call(2)
    pool.submit(one)
    pool.submit(two)
    worker_seen = [await worker.next(), await worker.next()]
    assert len(worker_seen) == 2
    worker.answer(1, b"", error=("InvalidRequest", "inputs: expected 3 numbers"))
    worker.answer(2, b"", error=("Overloaded", "full"))
    with pytest.raises(InvalidRequest, match="expected 3 numbers"):
        await one.future
    with pytest.raises(Overloaded) as refused:
        await two.future
    assert refused.value.retry_after_seconds == 0.5


async def test_when_a_worker_dies_only_what_it_ran_is_lost_and_the_rest_goes_to_another(stage: Stage) -> None:
    dying = await stage.worker()
    pool = await stage.pool(dying)
    poison, innocent = call(1), call(2)
    pool.submit(poison)
    pool.submit(innocent)
    await dying.next()
    await dying.next()
    other = await stage.worker()
    await pool.update(served(dying, other))
    dying.die(while_running=1)
    with pytest.raises(WorkerLost):
        await poison.future
    assert (await other.next())[1] == 2
    other.answer(2)
    assert (await innocent.future).body == b"ok"


async def test_without_another_worker_requests_wait_for_the_replacement(stage: Stage) -> None:
    dying = await stage.worker()
    pool = await stage.pool(dying)
    one = call(1)
    pool.submit(one)
    await dying.next()
    dying.die()
    replacement = await stage.worker()
    await pool.update(served(replacement))
    assert (await replacement.next())[1] == 1
    replacement.answer(1)
    assert (await one.future).body == b"ok"


async def test_a_request_is_given_to_another_worker_once_only(stage: Stage) -> None:
    first = await stage.worker()
    pool = await stage.pool(first)
    one = call(1)
    pool.submit(one)
    await first.next()
    first.die()
    second = await stage.worker()
    await pool.update(served(second))
    await second.next()
    second.die()
    with pytest.raises(WorkerLost):
        await one.future


async def test_the_wait_for_a_replacement_is_bounded_in_number_and_in_time(stage: Stage) -> None:
    pool = await stage.pool(max_queue_size=2)
    waiting = [call(1, seconds=0.05), call(2, seconds=0.05)]
    for one in waiting:
        pool.submit(one)
    with pytest.raises(Overloaded):
        pool.submit(call(3))
    for one in waiting:
        with pytest.raises(DeadlineExceeded):
            await one.future
    assert pool.in_flight == 0


@pytest.mark.parametrize(("batching", "taken"), [(None, 3), (ServingSettings(lane="batch"), 9)], ids=["cpu", "batch"])
async def test_how_much_may_wait_for_batches_only_their_worker_knows(
    stage: Stage, batching: ServingSettings | None, taken: int
) -> None:
    pool = await stage.pool(await stage.worker(), max_queue_size=2, batching=batching)
    refused = 0
    for number in range(1, 10):
        try:
            pool.submit(call(number))
        except Overloaded:
            refused += 1
    assert 9 - refused == taken


async def test_at_its_deadline_a_request_is_answered_and_cancelled_in_the_worker(stage: Stage) -> None:
    worker = await stage.worker()
    pool = await stage.pool(worker)
    one = call(7, seconds=0.05)
    pool.submit(one)
    with pytest.raises(DeadlineExceeded, match=r"a longer X-Request-Timeout-Seconds header, or .* timeout_seconds"):
        await one.future
    assert [(await worker.next())[:2], (await worker.next())[:2]] == [(messages.PREDICT, 7), (messages.CANCEL, 7)]
    worker.answer(7)  # too late: nobody is surprised


async def test_a_retired_pool_finishes_what_runs_and_sends_the_rest_elsewhere(stage: Stage) -> None:
    worker = await stage.worker()
    pool = await stage.pool(worker)
    running = call(1)
    pool.submit(running)
    await worker.next()
    pool.retire()
    with pytest.raises(Rerouted):
        pool.submit(call(2))
    worker.answer(1)
    assert (await running.future).body == b"ok"


STEPS = st.lists(
    st.sampled_from(["submit", "answer", "cancel", "kill", "kill running", "replace", "tick"]), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_accepted_call_ends_exactly_once_for_any_interleaving(steps: list[str]) -> None:
    async def scenario() -> None:
        async with staged() as stage:
            await _interleave(stage, steps)

    asyncio.run(scenario())


async def _interleave(  # noqa: C901 - one branch for each step of the scenario
    stage: Stage, steps: list[str]
) -> None:
    worker = await stage.worker()
    pool = await stage.pool(worker, max_queue_size=100)
    calls: dict[int, Waiting] = {}
    alive = True
    for step in [*steps, "replace", "tick"]:
        if step == "submit":
            number = len(calls) + 1
            calls[number] = call(number, body=b"%d" % number)
            pool.submit(calls[number])
        elif step == "cancel" and calls:
            one = next(reversed(calls.values()))
            if not one.future.done():
                one.settled = True
                pool.cancel(one)
                one.future.cancel()
        elif step == "answer" and alive and not worker.frames.empty():
            kind, number, body = worker.frames.get_nowait()
            if kind == messages.PREDICT:
                worker.answer(number, body)
        elif step.startswith("kill") and alive:
            begun = None if worker.frames.empty() or step == "kill" else worker.frames.get_nowait()[1]
            worker.die(while_running=begun)
            alive = False
        elif step == "replace" and not alive:
            worker = await stage.worker()
            alive = True
            await pool.update(served(worker, max_queue_size=100))
            await worker.accepted()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    while any(not one.future.done() for one in calls.values()):
        kind, number, body = await worker.next()
        if kind == messages.PREDICT:
            worker.answer(number, body)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    for number, one in calls.items():
        if one.future.cancelled() or isinstance(one.future.exception(), SeawayError):
            continue
        assert one.future.result().body == b"%d" % number
    assert pool.in_flight == 0
