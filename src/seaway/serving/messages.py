"""Frames between gateways, control and workers: a fixed header, a small msgpack part, then raw bytes. No pickle.

    header  "<IBxHQQ"  length of meta and body | kind | padding | length of meta | request id | deadline
    meta    msgpack of the kind's struct
    body    the rest

Kinds: PREDICT, LENT, DOUBT and CANCEL from gateways; DRAIN and STATS from control; ANSWER, STATUS and CALIBRATION from
the worker; HELLO from both. LENT is a PREDICT whose body lies in the gateway's arena: its own says where.
Deadlines are nanoseconds of the system-wide monotonic clock, so both sides of a socket mean the same instant.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator

import msgspec

from seaway.errors import SeawayError
from seaway.telemetry.batches import BatchCounters, DeviceUse, LimitsNow
from seaway.types import Calibration

HEADER = struct.Struct("<IBxHQQ")
PREDICT, CANCEL, ANSWER, STATS, STATUS, DRAIN, HELLO, LENT, CALIBRATION, DOUBT = range(1, 11)
PLACE = struct.Struct("<QQ")

Buffer = bytes | bytearray | memoryview


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """First frame on a connection: who calls. Gateways count in `index`; control is -1.

    A gateway that has an arena says hello again; the worker's own hello tells that it has opened it.
    """

    index: int
    arena: str = ""
    arena_bytes: int = 0


class Predict(msgspec.Struct, array_like=True, frozen=True):
    """One request, as far as the worker needs to know beside the raw body."""

    prediction_id: str
    protocol: str
    header_length: int | None
    content_type: str
    content_encoding: str
    accept_encoding: str


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What came of a request. `error` is None or (code, message); durations are nanoseconds."""

    error: tuple[str, str] | None
    retry_after_seconds: float
    header_length: int | None
    content_type: str
    content_encoding: str
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    rows: int
    batch_ns: int = 0
    batch_rows: int = 0
    """Size of the batch that it rode in; 0: in none."""
    lent_bytes: int = 0
    """How long the answer is that lies where the lent body was; 0: it follows this."""
    executions: tuple[tuple[int, int], ...] = ()
    """Of the batches it rode in, those that no other answer tells of: size and time."""
    cut: int = 0
    """Texts of the request of which the model saw only the beginning."""


class Status(msgspec.Struct, array_like=True, frozen=True):
    """A worker's state as control sees it: starting, ready, failed or draining."""

    worker_id: str
    pid: int
    phase: str
    reason: str
    queued: int
    running: int
    answered: int
    cpu_seconds: float
    batches: BatchCounters | None = None
    device: DeviceUse | None = None
    limits: LimitsNow | None = None


class Calibrated(msgspec.Struct, array_like=True, frozen=True):
    """What a worker measured before it was ready; sent to control again whenever that connects."""

    calibration: Calibration


class Frame(msgspec.Struct, frozen=True):
    """A frame taken off a stream; `meta` and `body` are views into the buffer it came in."""

    kind: int
    request_id: int
    deadline_ns: int
    meta: memoryview
    body: memoryview


_encode = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_predict = msgspec.msgpack.Decoder(Predict).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_status = msgspec.msgpack.Decoder(Status).decode
decode_calibrated = msgspec.msgpack.Decoder(Calibrated).decode


class FrameTooLarge(SeawayError):
    """A peer announced a frame over the limit: the stream can't be trusted any more."""


def pack(
    kind: int, meta: msgspec.Struct | None = None, *, request_id: int = 0, deadline_ns: int = 0, size: int = 0
) -> bytes:
    """Header and meta of a frame whose body of `size` bytes the caller sends right after."""
    packed = b"" if meta is None else _encode(meta)
    return HEADER.pack(len(packed) + size, kind, len(packed), request_id, deadline_ns) + packed


class FrameReader:
    """Cuts a byte stream into frames. One for each connection; not shared between threads."""

    def __init__(self, limit_bytes: int = 1 << 31) -> None:
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """The frames that `data` completes, oldest first. Raises FrameTooLarge."""
        if not self._buffer:
            # The common case: whole frames in one read, never copied.
            used = yield from self._cut(memoryview(data))
            self._buffer += memoryview(data)[used:]
            return
        self._buffer += data
        if len(self._buffer) < self._needed():
            return
        whole, self._buffer = self._buffer, bytearray()
        used = yield from self._cut(memoryview(whole))
        self._buffer += memoryview(whole)[used:]

    def _needed(self) -> int:
        if len(self._buffer) < HEADER.size:
            return HEADER.size
        (length,) = struct.unpack_from("<I", self._buffer)
        return HEADER.size + int(length)

    def _cut(self, view: memoryview) -> Generator[Frame, None, int]:
        at = 0
        while len(view) - at >= HEADER.size:
            length, kind, meta_length, request_id, deadline_ns = HEADER.unpack_from(view, at)
            if length > self._limit or meta_length > length:
                raise FrameTooLarge(f"A frame of {length} bytes is over the limit of {self._limit}.")
            begin = at + HEADER.size
            if len(view) - begin < length:
                break
            split = begin + meta_length
            yield Frame(kind, request_id, deadline_ns, view[begin:split], view[split : begin + length])
            at = begin + length
        return at
