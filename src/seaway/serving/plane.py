"""The data plane of one gateway: from a raw request body to a worker's answer. Knows no HTTP and no SQL."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from collections.abc import Callable
from typing import Any

import structlog

from seaway.errors import (
    Cancelled,
    SeawayError,
    Unavailable,
)
from seaway.serving import ids, messages
from seaway.serving.arena import Slot
from seaway.serving.assist import Assistant, LocalFlight
from seaway.serving.flight import Done, Flight, InferCall, Prediction, outcome_of, runs_inline
from seaway.serving.inline import InlineVersion, Watchdog
from seaway.serving.isolation import SLOW_RUN_NS, GatewayIsolation
from seaway.serving.pool import Pool, Result
from seaway.serving.predictor import Payload, Reply
from seaway.serving.router import Router, sticky_point
from seaway.telemetry.page import MetricsPage, NoMetrics, Timings
from seaway.types import RoutingTable, ServedVersion

log = structlog.get_logger()

PoolKey = tuple[str, int, int]


class DataPlane:
    """Routes, forwards and counts. One for each gateway process; lives on its event loop."""

    def __init__(
        self, *, index: int, page: MetricsPage | NoMetrics, random: Callable[[], float], max_body_bytes: int = 1 << 26
    ) -> None:
        self.index = index
        self._max_body_bytes = max_body_bytes
        self.router: Router | None = None
        self._page = page
        self._random = random
        self._pools: dict[PoolKey, Pool] = {}
        # Ids begin at a different place in each life of a gateway, so that a worker's page can't confuse two lives.
        self._next_id = time.monotonic_ns() & 0xFFFF_FFFF_FFFF
        self._counter = 0
        self._ids: dict[tuple[int, int], ids.PredictionIds] = {}
        self._apply_lock = asyncio.Lock()
        self._inline: dict[str, InlineVersion] = {}
        """By model: the one version that serves it, if that runs here."""
        self._loaded: dict[PoolKey, InlineVersion] = {}
        self._moved_out: dict[PoolKey, str] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._watchdog: Watchdog | None = None
        self._assisted: dict[str, InlineVersion] = {}
        """By model: the one version that serves it, if this gateway may lend its workers a hand."""
        self._unassisted: set[str] = set()
        """Models that other gateways may run while nothing else is asked for, and this one can't."""
        self.assistant: Assistant | None = None
        """None: it never does."""
        self.running: memoryview | list[int] = [0]
        """In the first place the revision that runs here at this moment, for who looks should it end this process."""
        self.isolation: GatewayIsolation | None = None
        """None: nothing is done about slow models beside those that run here."""
        self.on_moved_out: Callable[[ServedVersion, str], None] = lambda served, reason: None
        """Told when a version must not run inline any more, and why."""

    @property
    def generation(self) -> int:
        return self.router.table.generation if self.router else -1

    @property
    def in_flight(self) -> int:
        return sum(pool.in_flight for pool in self._pools.values())

    async def apply(self, table: RoutingTable) -> None:
        """Use `table` from now on. When this returns, no new request goes to a version it doesn't name."""
        async with self._apply_lock:
            if table.generation <= self.generation:
                return
            wanted = {(served.model, served.version, served.revision): served for served in table.versions}
            for key, served in wanted.items():
                if key not in self._pools:
                    self._pools[key] = Pool(served, self.index)
            await asyncio.gather(*(self._pools[key].update(served) for key, served in wanted.items()))
            self.router = Router(table)
            self._choose_inline()
            if self.assistant is not None:
                self.assistant.hand_over()  # what waits here was routed by the old table
            for key in self._pools.keys() - wanted.keys():
                self._pools.pop(key).retire()
                self._loaded.pop(key, None)
                self._moved_out.pop(key, None)
            for key, served in wanted.items():
                if served.inline is None:
                    self._loaded.pop(key, None)
                if self._runs_here(served) and key not in self._loaded and key not in self._moved_out:
                    task = asyncio.create_task(self._load_inline(key, served), name=f"inline-{served.model}")
                    self._loading.add(task)
                    task.add_done_callback(self._loading.discard)

    # ------------------------------------------------------------------ versions that run here

    def _runs_here(self, served: ServedVersion) -> bool:
        if served.inline is None or (served.inline.alone and self.assistant is None):
            return False
        if self.assistant is not None and (reason := self.assistant.refuses(served.revision)):
            self.move_out(served, reason)
            return False
        return True

    async def _load_inline(self, key: PoolKey, served: ServedVersion) -> None:
        """Make a version ready to run here; its workers answer meanwhile, and for good if that fails."""
        if self._watchdog is None:
            self._watchdog = Watchdog(self.move_out)
        opened = functools.partial(InlineVersion.open, served, self._watchdog, max_body_bytes=self._max_body_bytes)
        if self.assistant is not None:
            self.assistant.loads(served.revision)
        try:
            version = await asyncio.to_thread(opened)
        except (SeawayError, OSError, ValueError) as error:
            self._moved_out[key] = str(error)
            if served.inline is not None and served.inline.alone:
                log.info("gateway.lends_no_hand", model=served.model, version=served.version, reason=str(error))
            else:
                self.on_moved_out(served, f"it can't be loaded in a gateway: {error}")
            return
        finally:
            if self.assistant is not None:
                self.assistant.loads(0)
        gc.freeze()  # the runtime that came with it stays; `process.settle` says why
        if key in self._pools:
            self._loaded[key] = version
            self._choose_inline()

    def _choose_inline(self) -> None:
        """Where one version serves a model and runs here, requests needn't be routed at all."""
        self._inline, self._assisted, self._unassisted = {}, {}, set()
        for model, arms in (self.router.models if self.router else {}).items():
            version = self._loaded.get((model, arms[0].version, arms[0].revision)) if len(arms) == 1 else None
            if version is not None and arms[0].inline is not None:
                (self._assisted if version.alone else self._inline)[model] = version
            elif len(arms) == 1 and arms[0].inline is not None and arms[0].inline.alone:
                self._unassisted.add(model)

    def move_out(self, served: ServedVersion, reason: str) -> None:
        """Run a version in its workers only, from now on. Called on the event loop."""
        key = (served.model, served.version, served.revision)
        if key in self._moved_out:
            return
        self._moved_out[key] = reason
        self._loaded.pop(key, None)
        self._choose_inline()
        if self.assistant is not None:
            self.assistant.hand_over()
        log.warning("inline.moved_out", model=served.model, version=served.version, reason=reason)
        self.on_moved_out(served, reason)

    def inline_cpu(self) -> list[tuple[ServedVersion, int]]:
        """CPU nanoseconds of each version that runs here, since it was loaded."""
        return [(version.served, version.cpu_ns) for version in self._loaded.values()]

    def answer_inline(
        self, version: InlineVersion, request: InferCall, body: bytes
    ) -> tuple[Reply, str, int] | SeawayError | None:
        """The end of a request that runs here: reply, prediction id and run time in ns, or what the caller did wrong.

        None: it goes to the workers. `body` takes the place of the request's, which heads are remembered without.
        """
        started = time.monotonic_ns()
        served = version.served
        prediction_id = self.new_prediction_id(served)
        payload = Payload(
            request.protocol, body, request.header_length,
            request.content_type, request.content_encoding, request.accept_encoding,
        )  # fmt: skip
        running = self.running
        running[0] = served.revision  # as nothing between two runs is the model's fault, only for so long
        try:
            found = version.answer(payload, prediction_id)
        except SeawayError as error:
            self.count(served, outcome_of(error), None, time.monotonic_ns() - started)
            return error
        finally:
            running[0] = 0
        if found is None:
            return None
        if self.isolation is not None:
            self.isolation.ran(started)
        if self.assistant is not None:
            self.assistant.company.note(served.model, started)
        reply, input_ns, infer_ns, output_ns = found
        total = time.monotonic_ns() - started
        self._page.series(served.model, served.version).record(
            "ok", Timings(0, 0, input_ns, infer_ns, output_ns, total, reply.rows)
        )
        return reply, prediction_id, input_ns + infer_ns + output_ns

    def has_slow_work(self) -> bool:
        """Whether workers of a slow model are busy."""
        return any(pool.has_work(SLOW_RUN_NS) for pool in self._pools.values())

    def find_inline(self, model: str, n_bytes: int) -> InlineVersion | None:
        """The version that would answer a request for which `runs_inline` holds here, if one may."""
        version = self._inline.get(model)
        return None if version is None or n_bytes > version.max_body_bytes else version

    def resolve(self, model: str, version: str | None, key: str | None = None) -> ServedVersion:
        """The version that would answer. Raises NotFound, or Unavailable when it is not ready."""
        if self.router is None:
            raise Unavailable("This gateway has no routing table yet; retry in a moment.")
        return self.router.resolve(model, version, sticky_point(key, model) if key is not None else self._random())

    def start(self, request: InferCall, done: Done, *, plain: bool = False) -> Flight | LocalFlight:
        """Send a request to a worker, or run it here in a moment; `plain`: `runs_inline` holds for it.

        `done` gets its end, at the earliest before this returns.
        """
        started = time.monotonic_ns()
        assistant = self.assistant
        if assistant is not None:
            assistant.company.note(request.model, started)
            version = self._assisted.get(request.model)
            if version is not None and plain and version.takes(len(request.body), request.header_length, started):
                timeout = request.timeout_seconds
                left = int((version.served.timeout_seconds if timeout is None else timeout) * 1e9)
                if request.slot is None and assistant.accepts(version, left, started):
                    return assistant.take(version, request, done, started, started + left)
            elif version is not None or request.model in self._unassisted:
                assistant.leaves(started)
        return self.send(request, done, started)

    def send(self, request: InferCall, done: Done, started: int) -> Flight:
        """Send a request that came at `started` to a worker. `done` gets its end, perhaps before this returns."""
        flight = Flight(self, request, done, started)
        flight.launch()
        return flight

    def lend(self, request: InferCall, n_bytes: int) -> Slot | None:
        """Room for the body of `request`, where the version that will answer can read it; None: keep it elsewhere."""
        version = self._assisted.get(request.model) if self.assistant is not None and runs_inline(request) else None
        now = time.monotonic_ns()
        if version is not None and version.takes(n_bytes, request.header_length, now):
            assert self.assistant is not None  # noqa: S101 - narrows the type
            if self.assistant.company.alone(request.model, now):
                return None  # it will probably run here
        try:
            served = self.resolve(request.model, request.version, request.key)
        except SeawayError:
            return None
        return self.pool(served).lend(n_bytes, request.header_length or 0)

    async def predict(self, request: InferCall, left: Callable[[], Any] | None = None) -> Prediction:
        """Answer one request; `left` gives an awaitable that ends when the caller has gone.

        Raises the SeawayError that happened.
        """
        if found := self._try_inline(request):
            return found
        future: asyncio.Future[Prediction | SeawayError] = asyncio.get_running_loop().create_future()

        def done(outcome: Prediction | SeawayError) -> None:
            if not future.done():
                future.set_result(outcome)

        flight = self.start(request, done)
        try:
            outcome = await self._wait(future, left)
        finally:
            flight.cancel()
        if isinstance(outcome, SeawayError):
            raise outcome
        return outcome

    def _try_inline(self, request: InferCall) -> Prediction | None:
        version = self.find_inline(request.model, len(request.body)) if runs_inline(request) else None
        found = self.answer_inline(version, request, bytes(request.body)) if version else None
        if version is None or found is None:
            return None
        if isinstance(found, SeawayError):
            raise found
        reply, prediction_id, run_ns = found
        answer = messages.Answer(
            None, 0.0, reply.header_length, reply.content_type, reply.content_encoding, 0, 0, run_ns, 0, reply.rows,
            cut=reply.cut,
        )  # fmt: skip
        return Prediction(Result(answer, b"".join(reply.chunks)), version.served, prediction_id, run_ns)

    async def _wait(
        self, future: asyncio.Future[Prediction | SeawayError], left: Callable[[], Any] | None
    ) -> Prediction | SeawayError:
        """The outcome; Cancelled as soon as the caller has left."""
        if left is None:
            return await future
        # Most answers are here within this time, and then nobody needs to watch whether the caller is.
        await asyncio.wait({future}, timeout=0.02)
        if not future.done():
            watcher = asyncio.ensure_future(left())
            try:
                await asyncio.wait({future, watcher}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watcher.cancel()
        return future.result() if future.done() else Cancelled("The caller left before the answer came.")

    # ------------------------------------------------------------------ what a flight needs

    def pool(self, served: ServedVersion) -> Pool:
        return self._pools[served.model, served.version, served.revision]

    @staticmethod
    def outcome_of(error: SeawayError) -> str:
        return outcome_of(error)

    def finished(self, served: ServedVersion, result: Result, prediction_id: str, started: int) -> Prediction:
        """A counted answer."""
        total = time.monotonic_ns() - started
        self.count(served, "ok", result.answer, total)
        return Prediction(result, served, prediction_id, total)

    def new_request_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def new_prediction_id(self, served: ServedVersion) -> str:
        self._counter += 1
        writer = self._ids.get((served.revision, served.arm))
        if writer is None:
            writer = ids.PredictionIds(served.revision, served.arm, self.index)
            self._ids[served.revision, served.arm] = writer
        return writer.encode(time.time_ns() // 1_000_000, self._counter)

    def count(self, served: ServedVersion | None, outcome: str, answer: messages.Answer | None, total_ns: int) -> None:
        """Record one finished request: the only place where predictions are counted."""
        series = self._page.series(served.model, served.version) if served else self._page.series("", 0)
        if answer is None:
            series.record(outcome, Timings(0, 0, 0, 0, 0, total_ns, 0))
            return
        timings = Timings(
            answer.queue_ns, answer.batch_ns, answer.input_ns, answer.infer_ns, answer.output_ns, total_ns, answer.rows,
            answer.executions if answer.batch_rows else None,
        )  # fmt: skip
        series.record(outcome, timings)
