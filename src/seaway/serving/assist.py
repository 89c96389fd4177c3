"""Gateways that lend a hand: while the server is asked for one model only, they run it themselves (ADR 11).

A hop to a worker costs two wakes of a gateway. Beside a model of some milliseconds, which streams its weights through
the caches, each of them finds its caches cold and takes ten times as long as otherwise. A gateway that runs the model
itself is awake already. It runs one request in each turn of its event loop, so that whatever else comes waits for one
run at most, and everything goes to the workers from the first moment in which anything else is asked for.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from typing import TYPE_CHECKING

import structlog

from seaway.errors import DeadlineExceeded, SeawayError
from seaway.serving import messages
from seaway.serving.inline import InlineVersion
from seaway.serving.isolation import ActivityPage
from seaway.serving.lane import moving_average
from seaway.serving.pool import Result
from seaway.serving.predictor import Payload

log = structlog.get_logger()

if TYPE_CHECKING:
    from seaway.serving.flight import Done, Flight, InferCall, Prediction
    from seaway.serving.plane import DataPlane

QUIET_NS = 250_000_000
"""For so long nothing else must have been asked for."""
_TELL_NS = 25_000_000
_LOOK_NS = 5_000_000
_OFTEN_NS = 50_000_000
_MAX_DEATHS = 2
"""Gateways that may end while they run a version, with others or alone, before none does."""


class Company:
    """Whether this server, all its gateways together, is asked for one model only."""

    def __init__(self, page: ActivityPage, gateway: int) -> None:
        self._page = page
        self._gateway = gateway
        self._model = ""
        self._code = 0
        self._changed_ns = 0
        self._told_ns = 0
        self._look_ns = 0
        self._alone = False

    def note(self, model: str, now_ns: int) -> None:
        """A request came for this model; "": one of another kind, which stands for company too."""
        if model != self._model:
            self._model, self._code = model, zlib.crc32(model.encode())
            self._changed_ns, self._look_ns, self._alone = now_ns, 0, False
        elif now_ns < self._told_ns + _TELL_NS:
            return
        self._told_ns = now_ns
        self._page.tell(self._gateway, self._code, self._changed_ns, now_ns)

    def alone(self, model: str, now_ns: int) -> bool:
        """Whether nobody has asked for anything but this model for a while. `note` was called before."""
        if model != self._model:
            return False
        if now_ns > self._look_ns:
            self._look_ns = now_ns + _LOOK_NS
            before = now_ns - QUIET_NS
            self._alone = self._changed_ns < before and all(
                seen < before or (code == self._code and changed < before)
                for code, changed, seen in self._page.others(self._gateway)
            )
        return self._alone


class Assistant:
    """The engine that a gateway is meanwhile. Lives on its event loop."""

    def __init__(self, plane: DataPlane, page: ActivityPage, gateway: int) -> None:
        self.company = Company(page, gateway)
        self._plane = plane
        self._page = page
        self._gateway = gateway
        self._waiting: deque[LocalFlight] = deque()
        self._turns = False
        self._run_ns = 0
        self._left_ns = -_OFTEN_NS
        """When it last left a request to the workers that can't run here."""
        plane.running = page.running(gateway)
        page.begin_life(gateway, time.monotonic_ns())

    def refuses(self, revision: int) -> str:
        """Why a revision must not run here; empty: it may."""
        deaths = self._page.deaths(revision, time.monotonic_ns())
        return f"{deaths} gateways ended while they ran it" if deaths >= _MAX_DEATHS else ""

    def loads(self, revision: int) -> None:
        """A version is being loaded; 0: no longer."""
        self._page.set_loading(self._gateway, revision)

    def accepts(self, version: InlineVersion, left_ns: int, now_ns: int) -> bool:
        """Whether a request that may run here should. `left_ns`: what it has time for."""
        waiting = len(self._waiting)
        if waiting >= version.served.max_queue_size:
            return False
        if (waiting + 1) * self._run_ns >= left_ns:
            self._run_ns -= self._run_ns // 8  # only runs change it else, and one may have been stopped for long
            return False
        return self.company.alone(version.served.model, now_ns)

    def leaves(self, now_ns: int) -> None:
        """Workers run a request for the one model that is asked for, which can't run here.

        More than a few a second stand for company: no gateway is to compete with workers that are busy with it.
        """
        if now_ns < self._left_ns + _OFTEN_NS:
            self.company.note("", now_ns)
        self._left_ns = now_ns

    def take(
        self, version: InlineVersion, request: InferCall, done: Done, started: int, deadline_ns: int
    ) -> LocalFlight:
        """Run it in one of the next turns of the event loop."""
        flight = LocalFlight(self._plane, version, request, done, started, deadline_ns)
        self._waiting.append(flight)
        if not self._turns:
            self._turns = True
            asyncio.get_running_loop().call_soon(self._turn)
        return flight

    def hand_over(self) -> None:
        """Send what waits to the workers."""
        while self._waiting:
            self._waiting.popleft().hand_over()

    def _turn(self) -> None:
        try:
            while self._waiting:
                flight = self._waiting.popleft()
                if flight.waits:
                    self._serve(flight)
                    break
        finally:
            # Whatever happened to this one, the others have their turn.
            self._turns = bool(self._waiting)
            if self._turns:
                asyncio.get_running_loop().call_soon(self._turn)

    def _serve(self, flight: LocalFlight) -> None:
        now = time.monotonic_ns()
        served = flight.version.served
        if not self.company.alone(served.model, now):
            flight.hand_over()
            self.hand_over()
            return
        self._page.set_running(self._gateway, served.revision)
        try:
            flight.run(now)
        except Exception:  # the others still have their turn, and a worker tries this one
            log.exception("assist.run_failed", model=served.model, version=served.version)
            flight.hand_over()
        finally:
            self._page.set_running(self._gateway, 0)
        self._run_ns = moving_average(self._run_ns, time.monotonic_ns() - now)


class LocalFlight:
    """A request that waits to run here; to its caller the `Flight` that it becomes where a worker should do it."""

    __slots__ = ("_deadline_ns", "_done", "_flight", "_plane", "_request", "_started", "version")

    def __init__(
        self, plane: DataPlane, version: InlineVersion, request: InferCall, done: Done, started: int, deadline_ns: int
    ) -> None:
        self.version = version
        self._plane = plane
        self._request = request
        self._done: Done | None = done
        self._started = started
        self._deadline_ns = deadline_ns
        self._flight: Flight | None = None

    @property
    def waits(self) -> bool:
        """False once it has run, was handed over or nobody wants it any more."""
        return self._done is not None

    @property
    def over(self) -> bool:
        return self._done is None and (self._flight is None or self._flight.over)

    def cancel(self) -> None:
        """The caller has left. Counted, but `done` isn't called."""
        if self._flight is not None:
            self._flight.cancel()
        elif self._done is not None:
            self._done = None
            self._plane.count(self.version.served, "cancelled", None, time.monotonic_ns() - self._started)

    def doubt(self) -> None:
        """The caller has probably left: a worker has others go first."""
        self.hand_over()
        if self._flight is not None:
            self._flight.doubt()

    def hand_over(self) -> None:
        """Let a worker do it."""
        done, self._done = self._done, None
        if done is not None:
            self._flight = self._plane.send(self._request, done, self._started)

    def run(self, now: int) -> None:
        """Answer it. Called in a turn of its own."""
        plane, version, request = self._plane, self.version, self._request
        if now > self._deadline_ns:
            self._end("deadline", DeadlineExceeded("The request's time was over before it ran."))
            return
        prediction_id = plane.new_prediction_id(version.served)
        payload = Payload(
            request.protocol, request.body, request.header_length,
            request.content_type, request.content_encoding, request.accept_encoding,
        )  # fmt: skip
        try:
            found = version.answer(payload, prediction_id)
        except SeawayError as error:
            self._end(plane.outcome_of(error), error)
            return
        if found is None:
            if version.refused_numbers:
                self._learn(version.refused_numbers)
                version.refused_numbers = 0
            self.hand_over()
            return
        reply, input_ns, infer_ns, output_ns = found
        answer = messages.Answer(
            None, 0.0, reply.header_length, reply.content_type, reply.content_encoding,
            now - self._started, input_ns, infer_ns, output_ns, reply.rows, cut=reply.cut,
        )  # fmt: skip
        body = reply.chunks[0] if len(reply.chunks) == 1 else b"".join(reply.chunks)
        done, self._done = self._done, None
        if done is not None:
            done(plane.finished(version.served, Result(answer, body), prediction_id, self._started))

    def _learn(self, numbers: int) -> None:
        """Let the worker's time decide whether requests of this size may run here."""
        done, version, limit = self._done, self.version, self.version.max_numbers
        n_bytes, header_length = len(self._request.body), self._request.header_length

        def learning(outcome: Prediction | SeawayError) -> None:
            if not isinstance(outcome, SeawayError):
                answer = outcome.result.answer
                took = answer.input_ns + answer.infer_ns + answer.output_ns
                version.learn(numbers, limit, n_bytes, header_length, took, time.monotonic_ns())
            assert done is not None  # noqa: S101 - it waits, so somebody wants it
            done(outcome)

        self._done = learning

    def _end(self, outcome: str, error: SeawayError) -> None:
        done, self._done = self._done, None
        self._plane.count(self.version.served, outcome, None, time.monotonic_ns() - self._started)
        if done is not None:
            done(error)
