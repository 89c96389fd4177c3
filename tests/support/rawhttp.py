"""Exact bytes to a server, and a strict reading of what comes back: for tests of HTTP itself."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

TIMEOUT_SECONDS = 5.0
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x20-\x7e]*)")
_NUMBER = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")
_WITHOUT_BODY = {204, 304}


class MalformedAnswer(AssertionError):
    """The server sent bytes that are no HTTP/1.1 response."""


class Silence(AssertionError):
    """The server neither answered nor closed in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One final response, with the statuses of the interim ones before it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        if len(values) > 1:
            raise MalformedAnswer(f"{name} comes {len(values)} times: {values}")
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def says_close(self) -> bool:
        return (self.header("connection") or "").lower() == "close"


class RawConnection:
    """A TCP connection that writes what it is told and reads HTTP as RFC 9112 has it, no more kindly."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.connect(address)
        self._socket.setblocking(False)
        self._received = bytearray()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ out

    def send(self, data: bytes) -> bool:
        """Write everything while reading what comes; False when the server closed before it had taken all."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        left = memoryview(data)
        while left:
            readers = [] if self._ended else [self._socket]
            readable, writable, _ = select.select(readers, [self._socket], [], max(0.0, deadline - time.monotonic()))
            if not readable and not writable:
                raise Silence(f"The server does not read: {len(left)} of {len(data)} bytes are left.")
            if readable:
                self._receive()
            if writable:
                try:
                    left = left[self._socket.send(left[: 1 << 16]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self._receive()
                    return False
        return True

    def half_close(self) -> None:
        """Nothing more will be sent; answers can still come."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close without goodbye."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    # ------------------------------------------------------------------ in

    def closed_within(self, seconds: float) -> bool:
        """Whether the server closes within this time; what it says before is kept for `read`."""
        deadline = time.monotonic() + seconds
        while not self._ended:
            left = deadline - time.monotonic()
            if left <= 0 or not self._wait(left):
                return False
            self._receive()
        return True

    def arrived(self, seconds: float) -> bool:
        """Whether anything is there to read, or comes within this time."""
        return bool(self._received) or self._ended or self._wait(seconds)

    def read_interim(self) -> int:
        """The status of one interim response, which must be what comes next."""
        status, _ = self._head()
        if status >= 200:
            raise MalformedAnswer(f"An interim response was due, but the answer is {status}.")
        return status

    def read(self) -> Answer | None:
        """The next answer, or None when the server has closed."""
        interim: list[int] = []
        while True:
            if not self._received and not self._more():
                return None
            status, headers = self._head()
            if status >= 200:
                head = Answer(status, headers, b"", tuple(interim))
                return Answer(status, headers, self._body(head), tuple(interim))
            interim.append(status)

    def read_to_the_end(self) -> list[Answer]:
        """Every answer until the server closes."""
        return list(iter(self.read, None))

    def _head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        lines = self._until(b"\r\n\r\n").split(b"\r\n")
        status = _STATUS_LINE.fullmatch(lines[0])
        fields = [_FIELD.fullmatch(line) for line in lines[1:]]
        if status is None or None in fields:
            raise MalformedAnswer(f"not a response head: {lines}")
        return int(status[1]), tuple((f[1].decode().lower(), f[2].decode()) for f in fields if f)

    def _body(self, head: Answer) -> bytes:
        length, encoding = head.header("content-length"), head.header("transfer-encoding")
        if head.status in _WITHOUT_BODY:
            return b""
        if (length is None) == (encoding is None):
            raise MalformedAnswer(f"length {length!r} and encoding {encoding!r}: one of them says where the body ends")
        if length is not None:
            if not _NUMBER.fullmatch(length):
                raise MalformedAnswer(f"content-length {length!r}")
            return self._exactly(int(length))
        if encoding != "chunked":
            raise MalformedAnswer(f"transfer-encoding {encoding!r}")
        chunks: list[bytes] = []
        while True:
            size = self._until(b"\r\n")
            if not _CHUNK_SIZE.fullmatch(size):
                raise MalformedAnswer(f"chunk size {size!r}")
            chunks.append(self._exactly(int(size, 16)))
            if self._exactly(2) != b"\r\n":
                raise MalformedAnswer("a chunk does not end where its size says")
            if not chunks[-1]:
                return b"".join(chunks)

    def _until(self, mark: bytes) -> bytes:
        looked = 0
        while (found := self._received.find(mark, looked)) < 0:
            looked = max(0, len(self._received) - len(mark))
            self._demand()
        taken = bytes(self._received[:found])
        del self._received[: found + len(mark)]
        return taken

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._demand()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _demand(self) -> None:
        if not self._more():
            raise MalformedAnswer(f"The server closed within an answer: {bytes(self._received[:300])!r}")

    def _more(self) -> bool:
        """Wait for bytes; False when the server has closed."""
        before = len(self._received)
        while not self._ended and len(self._received) == before:
            if not self._wait(TIMEOUT_SECONDS):
                raise Silence(f"Nothing came for {TIMEOUT_SECONDS:g} s after {bytes(self._received[:300])!r}.")
            self._receive()
        return len(self._received) > before

    def _wait(self, seconds: float) -> bool:
        return bool(select.select([self._socket], [], [], seconds)[0])

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:  # reset
            data = b""
        self._received += data
        self._ended = not data


class Barrier:
    """When `pass_` returns, a server with a single event loop has read what was sent to it before.

    Loopback delivers before `send` returns, and the loop takes up everything that is readable in one turn: the answer
    to a later request on another connection comes after that.
    """

    _ASK = b"GET /v2/health/live HTTP/1.1\r\nHost: barrier\r\n\r\n"

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connection: RawConnection | None = None

    def pass_(self) -> None:
        for fresh in (False, True):
            if self._connection is None or fresh:
                self.close()
                self._connection = RawConnection(self._address)
            self._connection.send(self._ASK)
            if (answer := self._connection.read()) is not None:
                assert answer.ok, answer
                return
        raise AssertionError("The server closes every connection at once.")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one connection."""

    answers: tuple[Answer, ...]
    kept: bool
    """The connection took one more request afterwards, and answered that."""

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def refused(self) -> bool:
        return any(not answer.ok for answer in self.answers) or (not self.answers and not self.kept)


PROBE = b"GET /v2/health/live?probe HTTP/1.1\r\nHost: probe\r\n\r\n"
"""Asked at the end; both servers answer 200 to it, at once."""


def exchange(
    address: tuple[str, int], segments: Iterable[bytes], *, answers: int, then: str, pause: Callable[[], None]
) -> Outcome:
    """Send the segments, `pause` after each, and read everything that the server has to say to them.

    `answers` are to be waited for. What is done `then`: `probe` for another request, `leave` (half-close), or `wait`
    for the server to close. Raises Silence when the server does neither what was waited for nor closes.
    """
    with RawConnection(address) as connection:
        parts = list(segments)
        for part in parts:
            if not connection.send(part):
                break
            if part is not parts[-1]:
                pause()
        got: list[Answer] = []
        while len(got) < answers and (answer := connection.read()) is not None:
            got.append(answer)
            if answer.says_close:
                then = "wait"
                break
        kept = False
        if then == "probe" and len(got) == answers:
            connection.send(PROBE)
            kept = (answer := connection.read()) is not None
            if answer is not None:
                got.append(answer)
        if then != "wait":
            connection.half_close()
        got += connection.read_to_the_end()
    if kept:
        assert got[-1].ok, f"not the answer to the last question: {got}"
        got.pop()
    return Outcome(tuple(got), kept)
