"""The fast lane: plain inference requests, taken from the connection before uvicorn's parser sees them (ADR 6).

`LaneProtocol` is uvicorn's HTTP protocol. Between two requests it looks at what was read: a head that `HeadReader`
knows is taken, its body collected, the data plane called without a task, the answer written in one piece. Everything
else goes to uvicorn's parser and the FastAPI application, which have routes for the same paths. So the lane may be
stricter than HTTP, and must never be more permissive.
"""

from __future__ import annotations

import mmap
import time
from random import getrandbits
from typing import Any

import structlog

from seaway.api.bulk import Bulk
from seaway.api.errors import error_parts
from seaway.api.gathering import Gathering
from seaway.api.guarded import GuardedProtocol, response_head
from seaway.api.heads import MAX_HEAD_BYTES, Head, HeadReader
from seaway.api.infer import asked_timeout, server_timing
from seaway.config import Settings
from seaway.errors import DeadlineExceeded, InvalidRequest, NotFound, Overloaded, SeawayError
from seaway.serving import messages
from seaway.serving.arena import MIN_LENT_BYTES, Slot
from seaway.serving.assist import LocalFlight
from seaway.serving.flight import Flight, InferCall, Prediction
from seaway.serving.inline import InlineVersion
from seaway.serving.plane import DataPlane
from seaway.serving.predictor import Reply
from seaway.telemetry.trace import next_traceparent

log = structlog.get_logger()

_READ_AHEAD_BYTES = 1 << 16


class Lane:
    """What all connections of a gateway share."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self.plane = plane
        self.reader = HeadReader(settings)
        self.debug = settings.log_level == "debug"
        self.gathering: Gathering | None = None

    def note_other(self) -> None:
        """Something comes that isn't a plain prediction request: nobody should wait for models to run here."""
        if self.plane.assistant is not None:
            self.plane.assistant.company.note("", time.monotonic_ns())


class LaneProtocol(GuardedProtocol):
    """uvicorn's HTTP with the lane in front."""

    lane: Lane
    """Set in the subclass that `protocol_for` makes."""
    _body_seconds = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._flight: Flight | LocalFlight | None = None
        self._traceparent = ""
        self._later: list[bytes] = []
        self._later_bytes = 0
        self._more = False
        """For a client that sends nothing more: whether something follows, in what is read, the request just taken."""
        self._bulk: Bulk | None = None
        self._sending: Slot | None = None
        self._leaving = False

    @property
    def owes_nothing(self) -> bool:
        return self._flight is None and not self._later and not self._unanswered

    @property
    def is_between_requests(self) -> bool:
        return (
            self._head is None and self._sending is None and not self._leaving
            and not self.server_state.default_headers and super().is_between_requests
        )  # fmt: skip

    # ------------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        self.active = True
        if self._flight is not None or self.flow.write_paused:
            # One request at a time: the next is read when this one is answered and the answer is on its way.
            self._keep(data)
        elif self._head is not None:
            self._collect(data)
        else:
            self._read(data)

    def _keep(self, data: bytes) -> None:
        """Read it later. Some is read ahead, so that a client that leaves is noticed."""
        self._later.append(data)
        self._later_bytes += len(data)
        if self._later_bytes > _READ_AHEAD_BYTES:
            self.flow.pause_reading()

    def _read(self, data: bytes) -> None:
        """Take plain requests from the front of `data`, and give the rest to the parser."""
        lane = self.lane
        while data:
            is_ordinary = self._in_message or self._unanswered or self._upgraded
            if is_ordinary or self._leaving or self.server_state.default_headers:
                lane.note_other()
                # The parser has the connection, or is to have it: a server that leaves says so in each answer.
                super().data_received(data)
                return
            end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
            head = lane.reader.read(data[:end]) if end > 3 else None
            if head is None:
                lane.note_other()
                super().data_received(data)
                return
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            stop = end + head.length
            if self._half_closed:
                self._more = len(data) > stop
            if head.length >= MIN_LENT_BYTES:
                self._begin_large(head, memoryview(data)[end:stop])
            elif len(data) < stop:
                self._head, self._missing, self._body = head, stop - len(data), [data[end:]]
                return
            else:
                self._take(head, data[end:stop], None)
            data = data[stop:]
            if data and (self._flight is not None or self.flow.write_paused):
                self._keep(data)
                return

    def _collect(self, data: bytes) -> None:
        missing = self._missing - len(data)
        if missing > 0:
            self._body.append(data)
            self._missing = missing
            return
        head = self._head
        assert head is not None  # noqa: S101 - narrows the type
        rest = data[len(data) + missing :] if missing else b""
        self._body.append(data[: len(data) + missing] if missing else data)
        body, self._body, self._head = b"".join(self._body), [], None
        self._take(head, body, None)
        if rest:
            self.data_received(rest)

    def _begin_large(self, head: Head, first: memoryview) -> None:
        """Receive a large body straight to where it is read: an arena that the version's workers share, if possible."""
        slot = self.lane.plane.lend(head.call, head.length)
        if slot is None and len(first) == head.length:
            self._take(head, first, None)
            return
        try:
            # Pages of a mapping take memory when they are filled: a head alone makes nobody keep what it announces.
            body = slot.body if slot is not None else memoryview(mmap.mmap(-1, head.length))
        except (OSError, MemoryError):
            self._refuse(Overloaded("There is no memory for this body now; retry later."), close=True)
            return
        body[: len(first)] = first
        if len(first) == head.length:
            self._take(head, body, slot)
            return
        self._head = head
        self._bulk = Bulk(self, head, body, len(first), slot)
        self.transport.set_protocol(self._bulk)

    def end_large(self, bulk: Bulk) -> None:
        """The body is complete. Called by `Bulk`."""
        self.transport.set_protocol(self)
        self._head = self._bulk = None
        self._take(bulk.head, bulk.body, bulk.slot)

    # ------------------------------------------------------------------ answering

    def _take(self, head: Head, body: bytes | memoryview, slot: Slot | None) -> None:
        call = head.call
        self._traceparent = next_traceparent(head.traceparent, getrandbits)
        plane = self.lane.plane
        if slot is None and head.plain:
            version = plane.find_inline(call.model, head.length)
            if version is not None and self._take_inline(version, call, bytes(body)):
                return
        timeout = call.timeout_seconds
        try:
            if timeout is None and call.protocol == "infer":
                timeout = asked_timeout(body if call.header_length is None else body[: call.header_length])
        except InvalidRequest as error:
            if slot is not None:
                slot.release()
            self._refuse(error)
            return
        request = InferCall(
            call.model, call.version, call.protocol, body, timeout, call.key, call.header_length,
            call.content_type, call.content_encoding, call.accept_encoding, slot,
        )  # fmt: skip
        flight = plane.start(request, self._answer, plain=head.plain)
        if not flight.over:
            self._flight = flight

    def _take_inline(self, version: InlineVersion, call: InferCall, body: bytes) -> bool:
        """Answer here and now; False: a worker should, or the request says more than the lane looks at."""
        if b'"timeout"' in body:
            return False
        found = self.lane.plane.answer_inline(version, call, body)
        if found is None:
            return False
        if isinstance(found, SeawayError):
            self._note(found)
            self._refuse(found)
            return True
        reply, prediction_id, run_ns = found
        if self._leaving or reply.header_length is not None or reply.content_encoding or reply.cut or self.lane.debug:
            content = b"".join(reply.chunks)
            self._write(reply, content, (0, run_ns, 0, 0), version.served.version, prediction_id)
            return True
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nserver-timing: queue;dur=0, batch;dur=0, run;dur=%.3f\r\n"
            b"seaway-version: %d\r\nseaway-prediction-id: %b\r\ntraceparent: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (
                reply.content_type.encode(), run_ns / 1e6, version.served.version, prediction_id.encode(),
                self._traceparent.encode(), reply.n_bytes, bytes(reply.chunks[0]),
            )
        )  # fmt: skip
        self.server_state.total_requests += 1
        self.active = True
        if self._half_closed:
            self._close_if_all_is_said()
        return True

    def _answer(self, outcome: Prediction | SeawayError) -> None:
        """Write the answer. Called by the data plane, perhaps before `start` has returned."""
        waited, self._flight = self._flight is not None, None
        if self.transport.is_closing():
            if isinstance(outcome, Prediction) and outcome.result.slot is not None:
                outcome.result.slot.release()
            return
        if isinstance(outcome, SeawayError):
            self._note(outcome)
            self._refuse(outcome)
        else:
            result, answer = outcome.result, outcome.result.answer
            run_ns = answer.input_ns + answer.infer_ns + answer.output_ns
            times = (answer.queue_ns, run_ns, answer.batch_ns, answer.batch_rows)
            self._write(answer, result.body, times, outcome.served.version, outcome.prediction_id, result.slot)
        if waited:
            self._go_on()

    def _write(
        self,
        answer: messages.Answer | Reply,
        body: bytes | memoryview,
        times: tuple[int, int, int, int],
        version: int,
        prediction_id: str,
        slot: Slot | None = None,
    ) -> None:
        more = ""
        if answer.header_length is not None:
            more = f"inference-header-content-length: {answer.header_length}\r\n"
        if answer.content_encoding:
            more += f"content-encoding: {answer.content_encoding}\r\n"
        if answer.cut:
            more += f"seaway-truncated: {answer.cut}\r\n"
        if self._leaving:
            more += "connection: close\r\n"
        if self.lane.debug:
            log.debug("request.finished", prediction_id=prediction_id, trace=self._traceparent, ms=times[1] / 1e6)
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {answer.content_type}\r\n"
            f"server-timing: {server_timing(*times)}\r\n"
            f"seaway-version: {version}\r\nseaway-prediction-id: {prediction_id}\r\n"
            f"traceparent: {self._traceparent}\r\n{more}content-length: {len(body)}\r\n\r\n"
        ).encode()
        if slot is None and len(body) < MIN_LENT_BYTES:
            self.transport.write(head + body)
        else:
            if slot is not None:
                # With this limit the transport tells when it has written everything.
                self._sending = slot
                self.transport.set_write_buffer_limits(high=0)
            self.transport.writelines([head, body])
            if slot is not None and self.transport.get_write_buffer_size() == 0:
                self._sent()
        self._answered()

    def _note(self, error: SeawayError) -> None:
        # What callers do wrong is theirs to know; what the server couldn't do is the operator's.
        write = log.debug if isinstance(error, (InvalidRequest, NotFound, Overloaded)) else log.warning
        write("request.refused", trace=self._traceparent, code=error.code, reason=str(error))

    def _refuse(self, error: SeawayError, *, close: bool = False) -> None:
        self._leaving = self._leaving or close
        status, headers, body = error_parts(error)
        self._leaving = self._leaving or headers.get("Connection") == "close"
        if self._leaving:
            headers["Connection"] = "close"
        self.transport.write(response_head(status, headers, len(body)) + body)
        self._answered()

    def _answered(self) -> None:
        self.server_state.total_requests += 1
        self.active = True
        if self._leaving:
            self.transport.close()
        if self._half_closed:
            self._close_if_all_is_said()
        gathering = self.lane.gathering
        if gathering is not None and gathering.move is not None:
            gathering.offer(self)

    def _close_if_all_is_said(self) -> None:
        if not self._later and not self._more:
            self.transport.close()

    def _go_on(self) -> None:
        """Read what came while the last request was under way."""
        if self.flow.write_paused or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._later:
            data, self._later, self._later_bytes = b"".join(self._later), [], 0
            self._read(data)
            self._more = False
            if self._half_closed and self.owes_nothing:
                self.transport.close()

    # ------------------------------------------------------------------ the connection's life

    def _sent(self) -> None:
        """The answer has left its slot, or never will."""
        if self._sending is not None:
            self._sending.release()
            self._sending = None
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._sent()
        if self._flight is None:
            self._go_on()

    def eof_received(self) -> bool:  # type: ignore[override]
        stays = super().eof_received()
        if stays and self._flight is not None:
            # It may only have closed its sending side, but nearly all who do that don't read any more.
            self._flight.doubt()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        flight, self._flight, self._head = self._flight, None, None
        if flight is not None:
            flight.cancel()
        if self._bulk is not None and self._bulk.slot is not None:
            self._bulk.slot.release()
        self._bulk = None
        self._sent()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._flight is not None or self._head is not None:
            self._leaving = True
        else:
            super().shutdown()

    def sweep_quiet(self, seconds: float) -> None:
        if self._head is None:
            super().sweep_quiet(seconds)
        elif seconds > self._body_seconds:
            self._head, self._body = None, []
            if self._bulk is not None:
                self.transport.set_protocol(self)
            text = f"Nothing of the body came for {self._body_seconds:g} s (body_seconds)."
            self._refuse(DeadlineExceeded(text), close=True)


def protocol_for(plane: DataPlane, settings: Settings) -> type[LaneProtocol]:
    """The protocol class of one gateway's connections."""
    content = {
        "lane": Lane(plane, settings),
        "head_seconds": settings.head_seconds, "_body_seconds": settings.body_seconds,
        "write_seconds": settings.body_seconds,
    }  # fmt: skip
    return type("GatewayProtocol", (LaneProtocol,), content)
