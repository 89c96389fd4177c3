"""The worker process: one model version, one bounded queue, one engine thread per core.

The main thread does the I/O: it reads frames from gateways into the queue, refuses what the queue can't hold,
enforces deadlines, and talks to control. Engine threads take one request at a time and do everything else: decode,
validate, preprocess, run, postprocess, encode, send. The hop back needs no other thread unless a socket is full.

A worker with a single engine and a fast model is *solo*: its main thread is the engine too, because handing a request
of 10 µs to another thread costs more than the request. It looks at its sockets between two requests, answers in
batches, and a watchdog thread ends the runs that overstay.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import structlog

from seaway import faults
from seaway.errors import Cancelled, DeadlineExceeded, InferenceFailed, Overloaded, SeawayError, Unavailable
from seaway.packages.manifest import verify
from seaway.runtimes.base import RunHandle
from seaway.serving import batch_start, bus, calibration, messages, process
from seaway.serving.arena import MIN_LENT_BYTES, Window
from seaway.serving.batch_lane import BatchLane, Timing, refused_as
from seaway.serving.isolation import ActivityPage, WorkerIsolation
from seaway.serving.page import WorkerPage
from seaway.serving.predictor import Payload, Predictor, Reply
from seaway.types import Calibration, CalibrationOrder, ServingSettings, WorkerConfig

log = structlog.get_logger()

STUCK_SECONDS = 5.0
"""An engine that ignores its deadline this long can't be saved: the process ends and is replaced."""
_READ_BYTES = 1 << 18
_TICK_SECONDS = 0.05
_IDLE_TICKS = 40
_FAST_NS = 4_000_000
_TURN_NS = 3_000_000
"""How long a solo worker serves before it looks at its sockets again."""
_BATCH = 8
"""How many answers a solo worker sends together at most."""


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


@dataclass(slots=True, eq=False)
class Engine:
    """One engine thread's view: what it runs now, and since when that should have ended."""

    number: int
    current: Request | None = None
    stopping: Request | None = None
    """What `terminated_ns` is about: when this run was told to end."""
    terminated_ns: int = 0


class Worker:
    """Serves one version until told to drain. `run` returns the exit status of the process."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._page = WorkerPage.create(config.page, engines=config.engines)
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._engines: list[Engine] = []
        self._phase, self._reason = "starting", ""
        self._draining_since: float | None = None
        self._answered = 0
        self._run_ns = 0
        self._calibration: Calibration | None = None
        self._woken, self._waker = socket.socketpair()
        self._unsent: deque[Connection] = deque()
        self._solo: tuple[Engine, Predictor] | None = None
        self._batches: BatchLane | None = None
        self._unflushed: list[Connection] = []
        self._pinned = False
        self._isolation = self._open_isolation()
        self._something_runs = threading.Event()
        self._io = threading.RLock()
        """Sockets and selector: the main thread's, but for a solo worker that runs something long."""

    def _open_isolation(self) -> WorkerIsolation | None:
        if self._config.activity is None or not hasattr(os, "sched_setaffinity"):
            return None
        try:
            return WorkerIsolation(ActivityPage(self._config.activity), process.available_cpus())
        except (OSError, ValueError) as error:
            log.warning("worker.no_isolation", reason=str(error))  # no gateway has made the page: older, or none yet
            return None

    # ------------------------------------------------------------------ life

    def run(self) -> int:
        """Listen, load in the background, serve until drained. Called in the main thread."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._config.socket))
        listener.listen(64)
        for sock in (listener, self._woken, self._waker):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._wake)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._load, name="loader", daemon=True).start()
        while not self._finished():
            solo = self._solo
            if solo is not None and not self._pinned:
                self._pin(solo[0])
                self._pinned = True
            if solo is not None and not self._queue.empty():
                self._work_through(*solo)
                with self._io:
                    self._flush_batches()
                    self._look(0)
            else:
                with self._io:
                    self._flush_batches()
                    self._look(self._timeout())
                    self._watch(time.monotonic_ns())
        for _ in self._engines:
            self._queue.put(None)
        if self._batches is not None:
            self._batches.close()
        return 0 if self._phase != "failed" else 1

    def _look(self, timeout: float) -> None:
        """Wait so long for frames, and read them. Called with `_io` held where there is a second thread."""
        for key, mask in self._selector.select(timeout):
            if isinstance(key.data, Connection):
                self._serve(key.data, mask)
            else:
                key.data(key.fileobj)

    def _busy(self) -> bool:
        if self._batches is not None:
            return self._batches.busy
        return not self._queue.empty() or any(engine.current for engine in self._engines)

    def _timeout(self) -> float:
        busy = self._busy()
        return _TICK_SECONDS if busy or self._draining_since is not None else 1.0

    def _finished(self) -> bool:
        if self._draining_since is None:
            return False
        callers = any(connection.index is not None and connection.index >= 0 for connection in self._connections)
        return not (callers or self._busy()) or time.monotonic() - self._draining_since > self._config.drain_seconds

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._drain()
        self._waker.send(b"s")

    def _drain(self) -> None:
        faults.point("drain.worker")
        if self._draining_since is None:
            self._draining_since = time.monotonic()
            self._phase = "draining"

    def _load(self) -> None:
        """Load, then say ready or failed. Called in a thread of its own, so that control gets answers meanwhile."""
        try:
            began = time.monotonic()
            predictor = self._open()
            curve = self._config.curve
            if self._config.calibrate is not None:
                order, load_seconds = self._config.calibrate, time.monotonic() - began
                curve = self._calibrate(predictor, order, load_seconds=load_seconds).curve
            if self._config.batching is not None:
                self._start_batches(predictor, self._config.batching, curve)
            else:
                self._start_engines(predictor)
        except SeawayError as error:
            self._set_phase("failed", str(error))
        except Exception as error:  # outermost frame of the thread; the reason goes to the deployment
            log.exception("worker.load_failed")
            self._set_phase("failed", f"The version could not be loaded: {type(error).__name__}: {error}")
        else:
            process.settle()
            self._set_phase("ready", "")

    def _open(self) -> Predictor:
        config = self._config
        started = time.monotonic()
        verify(config.package, config.manifest)
        batching = config.batching
        predictor = Predictor.open(
            config.package, model=config.model, version=config.version, max_body_bytes=config.max_body_bytes,
            threads=len(process.available_cpus()) if batching else 1,
            device=(batching.device or "auto") if batching else "cpu",
            dtype=(batching.dtype or "auto") if batching else "auto",
        )  # fmt: skip
        predictor.warm_up()
        log.info("worker.loaded", seconds=round(time.monotonic() - started, 3), engines=config.engines)
        faults.point("worker.loaded")
        return predictor

    def _calibrate(self, predictor: Predictor, order: CalibrationOrder, *, load_seconds: float) -> Calibration:
        """Measure the version, tell control, and have as many engines as that gives this process."""
        measured = calibration.measure(
            predictor, self._config.package, load_seconds=load_seconds, machine=order.machine
        )  # fmt: skip
        if self._config.batching is not None:
            measured = batch_start.calibrate(predictor, self._config.package, measured, self._config.batching)
        choice = calibration.choose(measured, cores=order.cores, asked=order.asked)
        self._config = replace(self._config, engines=choice.engines // choice.processes)
        self._calibration = measured
        log.info("worker.calibrated", placement=choice.placement, engines=self._config.engines, why=choice.why)
        self._tell_control()
        return measured

    def _start_batches(
        self, predictor: Predictor, batching: ServingSettings, curve: tuple[tuple[int, int, float, int], ...]
    ) -> None:
        self._batches = batch_start.open_lane(predictor, batching, curve, self._config.max_queue_size, self)
        self._batches.start()

    def _start_engines(self, predictor: Predictor) -> None:
        self._engines = [Engine(number) for number in range(self._config.engines)]
        if len(self._engines) == 1 and _is_fast(predictor):
            threading.Thread(target=self._watch_solo, args=(self._engines[0],), name="watchdog", daemon=True).start()
            self._solo = (self._engines[0], predictor)
            self._waker.send(b"e")
            return
        for engine in self._engines:
            threading.Thread(
                target=self._work, args=(engine, predictor), name=f"engine-{engine.number}", daemon=True
            ).start()

    def _set_phase(self, phase: str, reason: str) -> None:
        if self._draining_since is None:
            self._phase, self._reason = phase, reason
        log.info("worker.phase", phase=phase, reason=reason)
        self._tell_control()

    def _tell_control(self) -> None:
        """Send our news unasked. Called in any thread."""
        for connection in list(self._connections):
            if connection.index == -1 and connection.send(self._news()):
                self._unsent.append(connection)
                self._waker.send(b"w")

    def _news(self) -> list[messages.Buffer]:
        """What control should know: what was measured, before the phase that follows from it."""
        status = messages.pack(messages.STATUS, self._status())
        if self._calibration is None:
            return [status]
        return [messages.pack(messages.CALIBRATION, messages.Calibrated(self._calibration)), status]

    def _status(self) -> messages.Status:
        times = os.times()
        queued, running = self._load_now()
        batches = self._batches
        return messages.Status(
            self._config.worker_id, os.getpid(), self._phase, self._reason,
            queued, running, self._answered, times.user + times.system,
            batches.counters if batches else None, batches.device_use() if batches else None,
        )  # fmt: skip

    def _load_now(self) -> tuple[int, int]:
        """Requests that wait, and runs under way."""
        if self._batches is not None:
            return self._batches.waiting, self._batches.running
        return self._queue.qsize(), sum(1 for engine in self._engines if engine.current)

    # ------------------------------------------------------------------ I/O thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = listener.accept()
            sock.setblocking(False)
            connection = Connection(sock, messages.FrameReader(self._config.max_body_bytes + (1 << 20)))
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _wake(self, woken: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        while self._unsent:
            connection = self._unsent.popleft()
            if not connection.closed and connection.flush():
                self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and not connection.flush():
            self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
        if mask & selectors.EVENT_READ:
            try:
                data = connection.sock.recv(_READ_BYTES)
                for frame in connection.reader.feed(data) if data else ():
                    self._handle(connection, frame)
            except BlockingIOError:
                return
            except (OSError, ValueError, messages.FrameTooLarge, msgspec.DecodeError) as error:
                log.warning("worker.connection_broken", reason=str(error))
                data = b""
            if not data:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        with connection.lock:
            connection.closed = True
            self._selector.unregister(connection.sock)
            connection.sock.close()
        self._connections.discard(connection)
        if connection.index is not None and connection.index >= 0:
            self._page.set_sent(connection.index, 0)
        for request in list(connection.requests.values()):
            self._cancel(request)

    def _handle(self, connection: Connection, frame: messages.Frame) -> None:
        kind = frame.kind
        if kind == messages.PREDICT:
            self._enqueue(connection, frame, frame.body, None)
        elif kind == messages.LENT:
            self._enqueue_lent(connection, frame)
        elif kind == messages.CANCEL:
            if request := connection.requests.get(frame.request_id):
                self._cancel(request)
        elif kind == messages.HELLO:
            self._greet(connection, messages.decode_hello(frame.meta))
        elif kind == messages.STATS:
            self._send(connection, [messages.pack(messages.STATUS, self._status())])
        elif kind == messages.DRAIN:
            self._drain()

    def _cancel(self, request: Request) -> None:
        if self._batches is not None:
            self._batches.cancel(request)
        request.cancelled = True

    def _greet(self, connection: Connection, hello: messages.Hello) -> None:
        connection.index = hello.index
        if hello.arena:
            self._open_arena(connection, hello)
        if connection.index == -1:
            self._send(connection, self._news())

    def _enqueue_lent(self, connection: Connection, frame: messages.Frame) -> None:
        offset, length = messages.PLACE.unpack(frame.body)
        window = connection.window
        if window is None:
            raise messages.FrameTooLarge("A body is lent from an arena that was never opened.")
        self._enqueue(connection, frame, window.body(offset, length), window.room(offset, length))

    def _open_arena(self, connection: Connection, hello: messages.Hello) -> None:
        """Look into the gateway's arena and say so; without an answer it goes on sending bodies."""
        try:
            connection.window = Window(hello.arena, hello.arena_bytes)
        except (OSError, ValueError) as error:
            log.warning("worker.no_arena", reason=str(error))
            return
        self._send(connection, [messages.pack(messages.HELLO, messages.Hello(hello.index))])

    def _enqueue(
        self, connection: Connection, frame: messages.Frame, body: memoryview, room: memoryview | None
    ) -> None:
        now = time.monotonic_ns()
        waiting = self._queue.qsize()
        request = Request(
            connection, frame.request_id, frame.deadline_ns, now, messages.decode_predict(frame.meta), body, room
        )
        refusal = self._refusal(request, waiting, now)
        if refusal is not None:
            self._answer_error(request, refusal, queue_ns=0)
            return
        connection.requests[request.request_id] = request
        if self._batches is not None:
            self._batches.submit(request)
        else:
            self._queue.put(request)
        if self._solo is None:
            self._publish()

    def _refusal(self, request: Request, waiting: int, now: int) -> SeawayError | None:
        """Why this request can't wait here, if so: admission is decided by the queue's one owner."""
        config = self._config
        if self._phase not in {"ready", "draining"}:
            return Unavailable(f"Version {config.version} of {config.model} is {self._phase}; retry in a moment.")
        if self._batches is not None:
            return self._batches.refusal(request.deadline_ns, now)
        wait_ns = (waiting + 1) * self._run_ns // config.engines
        retry_after = max(wait_ns / 1e9, 0.1)
        if waiting >= config.max_queue_size:
            return Overloaded(
                f"{waiting} requests wait for {config.model} already (max_queue_size); retry later.",
                retry_after_seconds=retry_after,
            )
        if waiting and now + wait_ns > request.deadline_ns:
            return Overloaded(
                f"{waiting} requests wait for {config.model}: this one would wait about {wait_ns / 1e9:.2f} s, "
                "longer than its deadline allows; retry later.",
                retry_after_seconds=retry_after,
            )
        return None

    def _watch(self, now: int) -> None:
        """Stop runs whose caller has left or whose time is over. Called in the I/O thread after every wait."""
        for engine in self._engines:
            request = engine.current
            if request is None or not (request.cancelled or now > request.deadline_ns):
                continue
            self._stop_run(engine, request, now)
        if self._batches is not None:
            self._watch_batches(self._batches, now)
        if self._isolation is not None:
            self._isolation.update(now, self._run_ns)
        self._publish()

    def _watch_batches(self, batches: BatchLane, now: int) -> None:
        if batches.lost:
            log.error("worker.device_lost", reason=batches.lost)
            os._exit(71)
        if batches.watch(now) > STUCK_SECONDS * 1e9:
            log.error("worker.stuck", rows=len(batches.running_entries()))
            os._exit(70)

    def _stop_run(self, engine: Engine, request: Request, now: int) -> None:
        if engine.stopping is not request:
            engine.stopping, engine.terminated_ns = request, now
        request.handle.terminate()
        if now - engine.terminated_ns > STUCK_SECONDS * 1e9:
            log.error("worker.stuck", engine=engine.number, prediction_id=request.meta.prediction_id)
            os._exit(70)

    def _publish(self) -> None:
        queued, running = self._load_now()
        self._page.publish(queued=queued, running=running, run_ns=self._run_ns)

    # ------------------------------------------------------------------ engine threads

    def _work(self, engine: Engine, predictor: Predictor) -> None:
        """Take requests until told to stop. Called in an engine thread."""
        self._pin(engine)
        while (request := self._queue.get()) is not None:
            self._serve_one(engine, predictor, request)

    def _pin(self, engine: Engine) -> None:
        cpus = self._config.cpus
        home = cpus[engine.number % len(cpus)] if cpus else None
        if home is not None:
            process.pin_thread(home)
        if self._isolation is not None:
            self._isolation.add(threading.get_native_id(), home)

    def _serve_one(self, engine: Engine, predictor: Predictor, request: Request) -> None:
        started = time.monotonic_ns()
        queue_ns = started - request.arrived_ns
        if request.cancelled or started > request.deadline_ns:
            self._skip(request, queue_ns)
            return
        self._page.begin(engine.number, request.connection.index or 0, request.request_id)
        engine.current = request
        try:
            self._predict(predictor, request, queue_ns)
        except Exception as error:  # noqa: BLE001 - outermost frame of the engine: answer, log, go on
            refusal = self._translate(request, error)
            self._answer_error(request, refusal, queue_ns=queue_ns, input_ns=time.monotonic_ns() - started)
        finally:
            self._page.end(engine.number)
            engine.current = None
            request.connection.requests.pop(request.request_id, None)
            self._answered += 1

    # ------------------------------------------------------------------ the batch lane

    def batch_answered(self, entry: Request, reply: Reply, timing: Timing) -> None:
        """Send an answer of the lane. Called in its threads, as the two below."""
        entry.connection.requests.pop(entry.request_id, None)
        self._answered += 1
        took = timing.input_ns + timing.infer_ns + timing.output_ns
        self._run_ns += (took - self._run_ns) // 8 if self._run_ns else took
        times = (timing.queue_ns, timing.input_ns, timing.infer_ns, timing.output_ns)
        self._answer(entry, reply, times, timing.batch_ns, timing.batch_rows)

    def batch_refused(self, entry: Request, error: Exception) -> None:
        """Say what is wrong, unless the caller has left."""
        entry.connection.requests.pop(entry.request_id, None)
        self._answered += 1
        if not entry.cancelled or entry.room is not None:  # a lent body is waited for
            self._answer_error(entry, refused_as(error), queue_ns=time.monotonic_ns() - entry.arrived_ns)

    def batches_changed(self, entries: Sequence[Request]) -> None:
        """Note for gateways which requests run, in case this process dies."""
        self._page.set_batches([(request.connection.index or 0, request.request_id) for request in entries])

    # ------------------------------------------------------------------ a solo worker

    def _work_through(self, engine: Engine, predictor: Predictor) -> None:
        """Serve what waits, for as long as nobody outside needs attention. Called in the main thread."""
        self._something_runs.set()
        until = time.monotonic_ns() + _TURN_NS
        for _ in range(_BATCH):
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is not None:
                self._serve_one(engine, predictor, request)
            if time.monotonic_ns() > until:
                break
        if self._isolation is not None:
            self._isolation.update(time.monotonic_ns(), self._run_ns)
        self._publish()

    def _flush_batches(self) -> None:
        for connection in self._unflushed:
            parts, connection.batch = connection.batch, []
            if connection.send(parts):
                self._unsent.append(connection)
                self._waker.send(b"w")
        self._unflushed.clear()

    def _watch_solo(self, engine: Engine) -> None:
        """Do the main thread's other work while it runs something long. Called in a thread of its own."""
        idle, tick = 0, threading.Event()
        while True:
            if idle > _IDLE_TICKS:
                self._something_runs.clear()
                self._something_runs.wait()
                idle = 0
            before = engine.current
            tick.wait(_TICK_SECONDS)
            request = engine.current
            idle = 0 if request is not None else idle + 1
            if request is None or request is not before:
                continue
            with self._io:
                if engine.current is request:
                    self._look(0)
                    self._flush_batches()
                    self._watch(time.monotonic_ns())

    def _skip(self, request: Request, queue_ns: int) -> None:
        """Drop a request that nobody waits for any more; it never reaches the model."""
        request.connection.requests.pop(request.request_id, None)
        if not request.cancelled or request.room is not None:  # a lent body is waited for
            self._answer_error(
                request, DeadlineExceeded("The request's time was over before it ran."), queue_ns=queue_ns
            )

    def _predict(self, predictor: Predictor, request: Request, queue_ns: int) -> None:
        reply, input_ns, infer_ns, output_ns = predictor.answer(
            request.payload, request.prediction_id, request.handle
        )  # fmt: skip
        took = input_ns + infer_ns + output_ns
        self._run_ns += (took - self._run_ns) // 8 if self._run_ns else took
        self._answer(request, reply, (queue_ns, input_ns, infer_ns, output_ns))

    def _translate(self, request: Request, error: Exception) -> SeawayError:
        if isinstance(error, Cancelled) and not request.cancelled:
            return DeadlineExceeded("The request's time was over while the model ran; the run was stopped.")
        if isinstance(error, SeawayError):
            return error
        if isinstance(error, MemoryError):
            return InferenceFailed("The model asked for more memory than its worker may use.")
        log.error("worker.failed", prediction_id=request.meta.prediction_id, exc_info=error)
        return InferenceFailed(f"The model failed: {type(error).__name__}.")

    def _answer(
        self, request: Request, reply: Reply, times: tuple[int, int, int, int], batch_ns: int = 0, batch_rows: int = 0
    ) -> None:
        room, chunks, lent = request.room, reply.chunks, 0
        if room is not None and MIN_LENT_BYTES <= reply.n_bytes <= len(room) and not request.cancelled:
            for chunk in chunks:
                room[lent : lent + len(chunk)] = chunk
                lent += len(chunk)
            chunks = []
        answer = messages.Answer(
            None, 0.0, reply.header_length, reply.content_type, reply.content_encoding, *times, reply.rows,
            batch_ns, batch_rows, lent,
        )  # fmt: skip
        header = messages.pack(
            messages.ANSWER, answer, request_id=request.request_id, size=reply.n_bytes if lent == 0 else 0
        )
        self._send(request.connection, [header, *chunks])

    def _answer_error(self, request: Request, error: SeawayError, *, queue_ns: int, input_ns: int = 0) -> None:
        retry = error.retry_after_seconds if isinstance(error, Overloaded) else 0.0
        answer = messages.Answer((error.code, str(error)), retry, None, "", "", queue_ns, input_ns, 0, 0, 0)
        self._send(request.connection, [messages.pack(messages.ANSWER, answer, request_id=request.request_id)])

    def _send(self, connection: Connection, parts: list[messages.Buffer]) -> None:
        if self._solo is not None:
            with self._io:
                if not connection.batch:
                    self._unflushed.append(connection)
                connection.batch += parts
        elif connection.send(parts):
            self._unsent.append(connection)
            with contextlib.suppress(BlockingIOError):
                self._waker.send(b"w")


def _is_fast(predictor: Predictor) -> bool:
    """Whether a warm sample takes so little that requests may wait for it in the socket."""
    started = time.monotonic_ns()
    predictor.warm_up()
    return time.monotonic_ns() - started < _FAST_NS


def main(config_json: bytes, parent_pid: int) -> int:
    """The worker process. Called by the launcher's child with its WorkerConfig."""
    process.die_with_parent(parent_pid)
    config = bus.worker_config(msgspec.json.decode(config_json))
    faults.arm(config.kill_point_file)
    faults.point("worker.start")
    process.limit_memory(config.memory_bytes)
    from seaway.telemetry import logs  # noqa: PLC0415 - after the limits, before anything that logs

    about = {"model": config.model, "version": config.version, "worker": config.worker_id}
    logs.configure("worker", config.log_level, config.log_format, file=config.log_file, about=about)
    # Engine threads share one GIL: a short request shouldn't wait 5 ms for another one's long decode.
    sys.setswitchinterval(0.001)
    return Worker(config).run()
