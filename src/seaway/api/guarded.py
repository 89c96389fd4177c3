"""uvicorn's HTTP protocol with the limits that it lacks, and with our shape of error where nothing can be parsed.

Limits for heads, trailers and chunks that never end, clients that drip or stall, upgrades that hide a request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()

MAX_UNDELIVERED_BYTES = 128 << 10
"""Bytes of a head or of trailers that the parser may swallow without giving anything back."""
MAX_CHUNKS, MIN_CHUNK_BYTES = 65_536, 64
"""A body of more chunks must have larger ones."""
HALF_CLOSE_SECONDS = 1.0
"""How long a client that has closed its sending side gets what it is owed: it may as well have left."""


def response_head(status: int, headers: dict[str, str], n_bytes: int) -> bytes:
    """Status line and headers of a JSON answer."""
    lines = "".join([f"{name.lower()}: {value}\r\n" for name, value in headers.items()])
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    return (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n{lines}content-length: {n_bytes}\r\n\r\n"
    ).encode()


_STATUSES = {int(status) for status in HTTPStatus}


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `sweep` is to be called about once a second."""

    write_seconds = 30.0
    head_seconds = 10.0
    idle_seconds = 75.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.active = True
        """Something was read or answered since `sweep` looked."""
        self._quiet_since = 0.0
        self._in_message = False
        self._head_since: float | None = None
        self._undelivered = 0
        self._chunks = 0
        self._chunk_bytes = 0
        self._upgraded = False
        self._half_closed = False
        self._unanswered: deque[Any] = deque()
        """uvicorn's cycles of requests that went to the application, oldest first."""

    @property
    def owes_nothing(self) -> bool:
        """Whether every request that was read is answered."""
        return not self._unanswered

    @property
    def is_between_requests(self) -> bool:
        """Whether whoever reads next from the socket can go on as if it had just been accepted."""
        return (
            self.owes_nothing
            and not (self._in_message or self._upgraded or self._half_closed or self.flow.read_paused)
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
        )

    def hand_over(self, send: Callable[[int], bool]) -> bool:
        """Give the socket's descriptor to `send` if nothing is under way; where that is true, another process has it.

        Whether it was handed over. The socket is not shut down.
        """
        if not self.is_between_requests:
            return False
        self.flow.pause_reading()
        if not send(self.transport.get_extra_info("socket").fileno()):
            self.flow.resume_reading()
            return False
        self.transport.abort()
        return True

    # ------------------------------------------------------------------ parsing

    def data_received(self, data: bytes) -> None:
        self.active = True
        if self._upgraded or self.transport.is_closing():
            return
        self._undelivered += len(data)
        super().data_received(data)
        if not self._in_message:
            self._undelivered = 0
        elif self._undelivered > MAX_UNDELIVERED_BYTES and not self.transport.is_closing():
            self.refuse(431, f"The head or the trailers have more than {MAX_UNDELIVERED_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self._in_message = True
        self._head_since = time.monotonic()
        self._chunks = self._chunk_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._undelivered = 0
        if self.parser.should_upgrade() and any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        ):
            # The parser stops here and would take the body for the next request.
            self.refuse(400, "Upgrades are not offered here; send the request without the header Upgrade.")
            self._upgraded = True
            return
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if self.parser.should_upgrade():
            # Whatever follows is meant for another protocol.
            self._upgraded, self.cycle.keep_alive = True, False

    def on_body(self, body: bytes) -> None:
        self._undelivered = 0
        self._chunks += 1
        self._chunk_bytes += len(body)
        if self._chunks > MAX_CHUNKS and self._chunk_bytes < self._chunks * MIN_CHUNK_BYTES:
            if not self.transport.is_closing():
                self.refuse(400, f"The body has more than {MAX_CHUNKS} tiny chunks; send larger ones.")
            return
        if not self._upgraded:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if not self._upgraded:
            super().on_message_complete()

    # ------------------------------------------------------------------ refusing

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, f"{msg.rstrip('.')}: the request line, a header or the framing is broken.")

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error and close: what follows can't be understood."""
        body = msgspec.json.encode({"error": message})
        self.transport.write(response_head(status, {"connection": "close"}, len(body)) + body)
        self.transport.close()

    # ------------------------------------------------------------------ the connection's life

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its sending side, or left. What it is owed is still sent, for a moment."""
        if self.owes_nothing or self.transport.is_closing():
            return False
        self._half_closed = True
        self.loop.call_later(HALF_CLOSE_SECONDS, self._give_up)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the newest only, and an older one that runs would write to nobody.
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def on_response_complete(self) -> None:
        self.active = True
        self._unanswered.popleft()
        super().on_response_complete()
        if self._half_closed and self.owes_nothing and not self.transport.is_closing():
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if nothing has happened on it for too long, or its head takes too long."""
        if self._head_since is not None and now - self._head_since > self.head_seconds and self.owes_nothing:
            self.refuse(408, f"The request's head was not complete within {self.head_seconds:g} s (head_seconds).")
        elif self.active:
            self.active, self._quiet_since = False, now
        else:
            self.sweep_quiet(now - self._quiet_since)

    def sweep_quiet(self, seconds: float) -> None:
        """Nothing was read or answered for so long."""
        if self.flow.write_paused:
            if seconds > self.write_seconds:
                log.info("gateway.slow_reader")
                self.transport.abort()
        elif self.owes_nothing and seconds > (self.head_seconds if self._in_message else self.idle_seconds):
            self.transport.close()
