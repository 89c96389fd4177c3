"""One request on its way through a gateway: as the edge hands it over, and until its one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from seaway.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    SeawayError,
    Unavailable,
)
from seaway.serving import messages
from seaway.serving.arena import Slot
from seaway.serving.pool import Call, Pool, Rerouted, Result
from seaway.types import ServedVersion

if TYPE_CHECKING:
    from seaway.serving.plane import DataPlane

_SHORT_SECONDS = 0.01
_ROUTING_ATTEMPTS = 3
"""A version may be retired between choosing it and reaching it; twice in a row is bad luck, three times is churn."""


class InferCall(msgspec.Struct, frozen=True):
    """One prediction as the edge hands it over; the body stays raw until a worker reads it."""

    model: str
    version: str | None
    protocol: str
    """predict or infer"""
    body: bytes | memoryview
    timeout_seconds: float | None = None
    """None: the deployment's default."""
    key: str | None = None
    """Sticky key: the same key goes to the same arm."""
    header_length: int | None = None
    content_type: str = ""
    content_encoding: str = ""
    accept_encoding: str = ""
    slot: Slot | None = None
    """Where `body` lies, if `DataPlane.lend` gave room for it; from `start` on it is the plane's to give back."""


def runs_inline(request: InferCall) -> bool:
    """Whether a request may run in a gateway, as far as its head tells.

    What a packed body holds can't be told from its size; a deadline that is almost over is the worker's to check; and a
    version that was asked for may not be the one that runs here.
    """
    timeout = request.timeout_seconds
    short = timeout is not None and timeout < _SHORT_SECONDS
    return request.version is None and not request.content_encoding and not short


class Prediction(msgspec.Struct, frozen=True):
    """An answer, ready for the edge to write."""

    result: Result
    served: ServedVersion
    prediction_id: str
    total_ns: int


Done = Callable[[Prediction | SeawayError], None]
"""Gets the one end of a request: its answer or what went wrong."""


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


class Flight:
    """One request from the edge's call to its end, which `done` gets exactly once and the metrics count once."""

    __slots__ = ("_attempts", "_call", "_done", "_plane", "_pool", "_request", "_served", "_started", "prediction_id")

    def __init__(self, plane: DataPlane, request: InferCall, done: Done, started: int) -> None:
        self.prediction_id = ""
        self._plane = plane
        self._request = request
        self._done: Done | None = done
        self._started = started
        self._served: ServedVersion | None = None
        self._pool: Pool | None = None
        self._call: Call | None = None
        self._attempts = 0

    @property
    def over(self) -> bool:
        return self._done is None

    def cancel(self) -> None:
        """The caller has left: nobody waits any more, here and in the worker. Counted, but `done` isn't called."""
        if self._done is None:
            return
        self._done = None
        self._plane.count(self._served, "cancelled", None, time.monotonic_ns() - self._started)
        if self._call is not None and self._pool is not None:
            self._call.settled = True
            self._pool.cancel(self._call)
        self._give_back()

    def doubt(self) -> None:
        """The caller has probably left: others go first."""
        if self._call is not None and self._call.channel is not None:
            self._call.channel.doubt(self._call)

    def launch(self) -> None:
        """Choose a version and send the request to it; again when that version is retired meanwhile."""
        request = self._request
        try:
            while self._attempts < _ROUTING_ATTEMPTS:
                self._attempts += 1
                served = self._served = self._plane.resolve(request.model, request.version, request.key)
                try:
                    self._submit(served, request)
                except Rerouted:
                    continue
                return
            raise Unavailable(f"Model {request.model!r} is being replaced; retry in a moment.")
        except SeawayError as error:
            self._end(error)

    def _submit(self, served: ServedVersion, request: InferCall) -> None:
        plane = self._plane
        self.prediction_id = prediction_id = plane.new_prediction_id(served)
        timeout = served.timeout_seconds if request.timeout_seconds is None else request.timeout_seconds
        meta = messages.Predict(
            prediction_id, request.protocol, request.header_length,
            request.content_type, request.content_encoding, request.accept_encoding,
        )  # fmt: skip
        deadline = self._started + int(timeout * 1e9)
        self._call = Call(plane.new_request_id(), deadline, meta, request.body, self._settled, request.slot)
        self._pool = plane.pool(served)
        self._pool.submit(self._call)

    def _settled(self, outcome: Result | SeawayError) -> None:
        """The pool's answer. Called by the event loop."""
        if self._done is None:
            return
        if isinstance(outcome, Rerouted):
            self.launch()
        else:
            self._end(outcome)

    def _end(self, outcome: Result | SeawayError) -> None:
        done, self._done = self._done, None
        served, total = self._served, time.monotonic_ns() - self._started
        if done is None:
            return
        if isinstance(outcome, SeawayError) or outcome.slot is None:
            self._give_back()
        if isinstance(outcome, SeawayError):
            self._plane.count(served, outcome_of(outcome), None, total)
            done(outcome)
            return
        assert served is not None  # noqa: S101 - narrows the type: an answer comes from a version
        self._plane.count(served, "ok", outcome.answer, total)
        done(Prediction(outcome, served, self.prediction_id, total))

    def _give_back(self) -> None:
        """The slot of the body, unless a worker still has it: then the pool waits for that."""
        slot = self._request.slot if self._call is None else self._call.slot
        if slot is not None:
            slot.release()
