"""The data plane of one gateway: from a raw request body to a worker's answer. Knows no HTTP and no SQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seaway.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    SeawayError,
    Unavailable,
)
from seaway.serving import ids, messages
from seaway.serving.pool import Call, Pool, Rerouted, Result
from seaway.serving.router import Router, sticky_point
from seaway.telemetry.page import MetricsPage, Timings
from seaway.types import RoutingTable, ServedVersion

PoolKey = tuple[str, int, int]

_ROUTING_ATTEMPTS = 3
"""A version may be retired between choosing it and reaching it; twice in a row is bad luck, three times is churn."""


@dataclass(frozen=True, slots=True)
class InferCall:
    """One prediction as the edge hands it over; the body stays raw until a worker reads it."""

    model: str
    version: str | None
    protocol: str
    """predict or infer"""
    body: bytes
    timeout_seconds: float | None = None
    """None: the deployment's default."""
    key: str | None = None
    """Sticky key: the same key goes to the same arm."""
    header_length: int | None = None
    content_type: str = ""
    content_encoding: str = ""
    accept_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, ready for the edge to write."""

    result: Result
    served: ServedVersion
    prediction_id: str
    total_ns: int


def outcome_of(error: BaseException) -> str:
    """Under which outcome a failed request is counted."""
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome
    return "failed"


_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (NotFound, "not_found"),
    (InvalidRequest, "invalid"),
    (Overloaded, "overloaded"),
    (DeadlineExceeded, "deadline"),
    (Cancelled, "cancelled"),
    (asyncio.CancelledError, "cancelled"),
    (Unavailable, "unavailable"),
    (SeawayError, "failed"),
)


class DataPlane:
    """Routes, forwards and counts. One for each gateway process; lives on its event loop."""

    def __init__(self, *, index: int, page: MetricsPage, random: Callable[[], float]) -> None:
        self.index = index
        self.router: Router | None = None
        self._page = page
        self._random = random
        self._pools: dict[PoolKey, Pool] = {}
        # Ids begin at a different place in each life of a gateway, so that a worker's page can't confuse two lives.
        self._next_id = time.monotonic_ns() & 0xFFFF_FFFF_FFFF
        self._counter = 0
        self._apply_lock = asyncio.Lock()

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
            for key in self._pools.keys() - wanted.keys():
                self._pools.pop(key).retire()

    def resolve(self, model: str, version: str | None, key: str | None = None) -> ServedVersion:
        """The version that would answer. Raises NotFound, or Unavailable when it is not ready."""
        if self.router is None:
            raise Unavailable("This gateway has no routing table yet; retry in a moment.")
        return self.router.resolve(model, version, sticky_point(key, model) if key is not None else self._random())

    async def predict(self, request: InferCall, left: Callable[[], Any] | None = None) -> Prediction:
        """Answer one request; `left` gives an awaitable that ends when the caller has gone.

        Raises the SeawayError that happened; every end is counted once, here.
        """
        started = time.monotonic_ns()
        served: ServedVersion | None = None
        try:
            for _ in range(_ROUTING_ATTEMPTS):
                served = self.resolve(request.model, request.version, request.key)
                prediction_id, call = self._call(request, served, started)
                pool = self._pools[served.model, served.version, served.revision]
                try:
                    pool.submit(call)
                    result = await self._wait(pool, call, left)
                except Rerouted:
                    continue
                total = time.monotonic_ns() - started
                self._count(served, "ok", result.answer, total)
                return Prediction(result, served, prediction_id, total)
            message = f"Model {request.model!r} is being replaced; retry in a moment."
            raise Unavailable(message)  # noqa: TRY301 - counted below like every other end
        except BaseException as error:
            self._count(served, outcome_of(error), None, time.monotonic_ns() - started)
            raise

    def _call(self, request: InferCall, served: ServedVersion, started: int) -> tuple[str, Call]:
        self._next_id += 1
        self._counter += 1
        timeout = served.timeout_seconds if request.timeout_seconds is None else request.timeout_seconds
        now_ms = int(time.time() * 1000)  # noqa: TID251 - the id tells people the time of day
        parts = ids.PredictionId(now_ms, served.revision, served.arm, self.index, self._counter)
        prediction_id = ids.encode(parts)
        meta = messages.Predict(
            prediction_id, request.protocol, request.header_length,
            request.content_type, request.content_encoding, request.accept_encoding,
        )  # fmt: skip
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        return prediction_id, Call(self._next_id, started + int(timeout * 1e9), meta, request.body, future)

    async def _wait(self, pool: Pool, call: Call, left: Callable[[], Any] | None) -> Result:
        """The call's result; Cancelled as soon as the caller has left."""
        try:
            if left is None:
                return await call.future
            # Most answers are here within this time, and then nobody needs to watch whether the caller is.
            await asyncio.wait({call.future}, timeout=0.02)
            if not call.future.done():
                watcher = asyncio.ensure_future(left())
                try:
                    await asyncio.wait({call.future, watcher}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watcher.cancel()
            if not call.future.done():
                raise Cancelled("The caller left before the answer came.")
            return call.future.result()
        finally:
            if not call.future.done():
                pool.cancel(call)
                call.future.cancel()

    def _count(self, served: ServedVersion | None, outcome: str, answer: messages.Answer | None, total_ns: int) -> None:
        """Record one finished request: the only place where predictions are counted."""
        series = self._page.series(served.model, served.version) if served else self._page.series("", 0)
        if answer is None:
            series.record(outcome, Timings(0, 0, 0, 0, 0, total_ns, 0))
        else:
            series.record(
                outcome,
                Timings(answer.queue_ns, 0, answer.input_ns, answer.infer_ns, answer.output_ns, total_ns, answer.rows),
            )
