"""A worker's ends of the streams from gateways, and the predictions that came over them."""

from __future__ import annotations

import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from seaway.runtimes.base import RunHandle
from seaway.serving import messages
from seaway.serving.arena import Window
from seaway.serving.predictor import Payload


@dataclass(slots=True, eq=False)
class Connection:
    """One gateway's (or control's) stream. Engine threads send on it directly; what doesn't fit waits in `outbox`."""

    sock: socket.socket
    reader: messages.FrameReader
    index: int | None = None
    requests: dict[int, Request] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    outbox: deque[memoryview] = field(default_factory=deque)
    batch: list[messages.Buffer] = field(default_factory=list)
    """Answers of a solo worker that go out together."""
    window: Window | None = None
    closed: bool = False

    def send(self, parts: list[messages.Buffer]) -> bool:
        """Send, or keep for later, all of `parts`. True when the I/O thread has to go on with it."""
        with self.lock:
            if self.closed:
                return False
            if not self.outbox:
                parts = self._send_now(parts)
            self.outbox.extend(memoryview(part).cast("B") for part in parts)
            return bool(self.outbox)

    def flush(self) -> bool:
        """Send what waits; called by the I/O thread when the socket takes more. True when something still waits."""
        with self.lock:
            rest = self._send_now(list(self.outbox))
            self.outbox = deque(memoryview(part).cast("B") for part in rest)
            return bool(self.outbox)

    def _send_now(self, parts: list[Any]) -> list[Any]:
        """What of `parts` the socket didn't take."""
        while parts:
            try:
                sent = self.sock.sendmsg(parts[:512])
            except (BlockingIOError, InterruptedError):
                return parts
            except OSError:
                # The peer is gone; the I/O thread sees the end of the stream and cancels its requests.
                return []
            while parts and sent >= len(memoryview(parts[0]).cast("B")):
                sent -= len(memoryview(parts[0]).cast("B"))
                parts = parts[1:]
            if sent:
                parts = [memoryview(parts[0]).cast("B")[sent:], *parts[1:]]
        return []


@dataclass(slots=True, eq=False)
class Request:
    """A prediction that waits or runs here."""

    connection: Connection
    request_id: int
    deadline_ns: int
    arrived_ns: int
    meta: messages.Predict
    body: bytes | memoryview
    room: memoryview | None = None
    """Where the answer may go, for a lent body."""
    handle: RunHandle = field(default_factory=RunHandle)
    """One for each request: ending this run can never end the next one of the same engine."""
    doubtful: bool = False
    """Its caller has closed the sending side of the connection, and most who do that have left."""
    cancelled: bool = False

    @property
    def payload(self) -> Payload:
        meta = self.meta
        return Payload(
            meta.protocol, self.body, meta.header_length, meta.content_type, meta.content_encoding, meta.accept_encoding
        )

    @property
    def prediction_id(self) -> str:
        return self.meta.prediction_id
