"""The worker process: one model version, and the lane that runs it.

The main thread does the I/O: it reads frames from gateways, hands requests to the lane or refuses what it can't hold,
enforces deadlines, and talks to control. The lane's threads answer through `Worker.answered` and `Worker.refused`,
which send at once; only what a socket doesn't take is left to the main thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import structlog

from seaway import faults
from seaway.errors import Overloaded, SeawayError, Unavailable
from seaway.serving import batch_start, bus, messages, process
from seaway.serving.arena import MIN_LENT_BYTES, Window
from seaway.serving.batch_lane import BatchLane
from seaway.serving.connections import Connection, Request
from seaway.serving.cpu_lane import CpuLane
from seaway.serving.isolation import ActivityPage, WorkerIsolation
from seaway.serving.joint_lane import JointLane
from seaway.serving.lane import Timing, refused_as
from seaway.serving.opening import Opened, open_version
from seaway.serving.page import WorkerPage
from seaway.serving.predictor import Reply
from seaway.types import Calibration, Choice, WorkerConfig

log = structlog.get_logger()

STUCK_SECONDS = 5.0
"""A run that ignores its deadline this long can't be saved: the process ends and is replaced."""
_READ_BYTES = 1 << 18
_TICK_SECONDS = 0.05


class Worker:
    """Serves one version until told to drain. `run` returns the exit status of the process."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._page = WorkerPage.create(config.page, engines=config.engines)
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._lane: CpuLane | BatchLane | None = None
        self._solo: CpuLane | None = None
        """The lane, where the main thread is its engine."""
        self._phase, self._reason = "starting", ""
        self._draining_since: float | None = None
        self._nobody_new = False
        self._answered = 0
        self._calibration: Calibration | None = None
        self._woken, self._waker = socket.socketpair()
        self._unsent: deque[Connection] = deque()
        self._unflushed: list[Connection] = []
        self._isolation = self._open_isolation()
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
        signal.signal(process.NOBODY_NEW, self._on_nobody_new)
        threading.Thread(target=self._load, name="loader", daemon=True).start()
        while not self._finished():
            solo = self._solo
            if solo is not None and solo.waiting:
                solo.work_through()
                self._look_around(time.monotonic_ns())
                with self._io:
                    self._flush_batches()
                    self._look(0)
            else:
                with self._io:
                    self._flush_batches()
                    self._look(self._timeout())
                    self._watch(time.monotonic_ns())
        if self._lane is not None:
            self._lane.close()
        return 0 if self._phase != "failed" else 1

    def _look(self, timeout: float) -> None:
        """Wait so long for frames, and read them. Called with `_io` held where there is a second thread."""
        for key, mask in self._selector.select(timeout):
            if isinstance(key.data, Connection):
                self._serve(key.data, mask)
            else:
                key.data(key.fileobj)

    def _busy(self) -> bool:
        return self._lane is not None and self._lane.busy

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

    def _on_nobody_new(self, _number: int, _frame: object) -> None:
        self._nobody_new = True
        self._waker.send(b"s")

    def _drain(self) -> None:
        faults.point("drain.worker")
        if self._draining_since is None:
            self._draining_since = time.monotonic()
            self._phase = "draining"

    def _load(self) -> None:
        """Load, then say ready or failed. Called in a thread of its own, so that control gets answers meanwhile."""
        try:
            self._start(open_version(self._config, self._measured))
        except SeawayError as error:
            self._set_phase("failed", str(error))
        except Exception as error:  # outermost frame of the thread; the reason goes to the deployment
            log.exception("worker.load_failed")
            self._set_phase("failed", f"The version could not be loaded: {type(error).__name__}: {error}")
        else:
            process.settle()
            self._set_phase("ready", "")

    def _measured(self, calibration: Calibration, choice: Choice) -> None:
        """Have as many engines as the choice gives this process, and tell control. Called by the loader."""
        self._config = replace(self._config, engines=choice.engines // choice.processes)
        self._calibration = calibration
        self._tell_control()

    def _start(self, opened: Opened) -> None:
        config, predictor = self._config, opened.predictor
        engines, waiting = config.engines, config.max_queue_size
        lane: CpuLane | BatchLane
        if config.batching is not None:
            lane = batch_start.open_lane(predictor, config.batching, opened.curve, waiting, self)
        else:
            joint = opened.joint
            if joint is not None and joint.rows > 1:
                lane = JointLane(predictor, joint, engines=engines, max_queue_size=waiting, owner=self)
            else:
                lane = CpuLane(predictor, engines=engines, max_queue_size=waiting, owner=self)
            self._solo = lane if lane.solo else None
        lane.start()
        self._lane = lane

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
        lane = self._lane
        batches = lane if isinstance(lane, BatchLane) else None
        counters = lane.counters if isinstance(lane, BatchLane | JointLane) else None
        return messages.Status(
            self._config.worker_id, os.getpid(), self._phase, self._reason,
            lane.waiting if lane else 0, lane.running if lane else 0, self._answered, times.user + times.system,
            counters, batches.device_use() if batches else None, batches.limits_now() if batches else None,
        )  # fmt: skip

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
        elif kind == messages.DOUBT:
            if request := connection.requests.get(frame.request_id):
                request.doubtful = True
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
        request.cancelled = True
        if self._lane is not None:
            self._lane.cancel(request)

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
        request = Request(
            connection, frame.request_id, frame.deadline_ns, now, messages.decode_predict(frame.meta), body, room
        )
        lane = self._lane
        if lane is None or self._phase not in {"ready", "draining"}:
            config = self._config
            self._refuse(
                request, Unavailable(f"Version {config.version} of {config.model} is {self._phase}; retry in a moment.")
            )
            return
        refusal = lane.refusal(request.deadline_ns, now)
        if refusal is not None:
            self._refuse(request, refusal)
            return
        connection.requests[request.request_id] = request
        lane.submit(request)
        if self._solo is None:
            self._publish()

    def _watch(self, now: int) -> None:
        """Stop runs whose callers have left or whose time is over. Called in the I/O thread after every wait."""
        lane = self._lane
        if (self._nobody_new or self._draining_since is not None) and isinstance(lane, BatchLane):
            lane.hurry()
        if lane is not None and lane.watch(now) > STUCK_SECONDS * 1e9:
            log.error("worker.stuck")
            os._exit(70)
        if lane is not None and lane.lost:
            log.error("worker.lost", reason=lane.lost)
            os._exit(71)
        self._look_around(now)

    def _look_around(self, now: int) -> None:
        """Keep to the cores that are ours, and tell gateways how busy we are."""
        if self._isolation is not None:
            self._isolation.update(now, self._lane.run_ns if self._lane else 0)
        self._publish()

    def _publish(self) -> None:
        lane = self._lane
        if lane is not None:
            self._page.publish(queued=lane.waiting, running=lane.running, run_ns=lane.run_ns)

    # ------------------------------------------------------------------ called by the lane, in its threads

    def answered(self, entry: Request, reply: Reply, timing: Timing) -> None:
        """Send an answer."""
        entry.connection.requests.pop(entry.request_id, None)
        self._answered += 1
        self._answer(entry, reply, timing)

    def refused(self, entry: Request, error: BaseException) -> None:
        """Say what is wrong, unless the caller has left."""
        entry.connection.requests.pop(entry.request_id, None)
        self._answered += 1
        if not entry.cancelled or entry.room is not None:  # a lent body is waited for
            self._refuse(entry, refused_as(error, entry.prediction_id))

    def running_changed(self, entries: Sequence[Request]) -> None:
        """Note for gateways which requests are in batches, in case this process dies."""
        self._page.set_batches([(request.connection.index or 0, request.request_id) for request in entries])

    def began(self, engine: int, entry: Request) -> None:
        """Note for gateways what an engine runs, in case this process dies."""
        self._page.begin(engine, entry.connection.index or 0, entry.request_id)

    def ended(self, engine: int) -> None:
        """Note that it runs nothing."""
        self._page.end(engine)

    def bind(self, engine: int) -> None:
        """Give the calling thread its core."""
        cpus = self._config.cpus
        home = cpus[engine % len(cpus)] if cpus else None
        if home is not None:
            process.pin_thread(home)
        if self._isolation is not None:
            self._isolation.add(threading.get_native_id(), home)

    def stand_in(self, still: Callable[[], bool]) -> None:
        """Look after sockets and deadlines, if `still` is true then: the main thread runs a model."""
        with self._io:
            if still():
                self._look(0)
                self._flush_batches()
                self._watch(time.monotonic_ns())

    # ------------------------------------------------------------------ answers

    def _answer(self, request: Request, reply: Reply, timing: Timing) -> None:
        room, chunks, lent = request.room, reply.chunks, 0
        if room is not None and MIN_LENT_BYTES <= reply.n_bytes <= len(room) and not request.cancelled:
            for chunk in chunks:
                room[lent : lent + len(chunk)] = chunk
                lent += len(chunk)
            chunks = []
        answer = messages.Answer(
            None, 0.0, reply.header_length, reply.content_type, reply.content_encoding,
            timing.queue_ns, timing.input_ns, timing.infer_ns, timing.output_ns, reply.rows,
            timing.batch_ns, timing.batch_rows, lent, timing.executions, reply.cut,
        )  # fmt: skip
        header = messages.pack(
            messages.ANSWER, answer, request_id=request.request_id, size=reply.n_bytes if lent == 0 else 0
        )
        self._send(request.connection, [header, *chunks])

    def _refuse(self, request: Request, error: SeawayError) -> None:
        retry = error.retry_after_seconds if isinstance(error, Overloaded) else 0.0
        waited = time.monotonic_ns() - request.arrived_ns
        answer = messages.Answer((error.code, str(error)), retry, None, "", "", waited, 0, 0, 0, 0)
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

    def _flush_batches(self) -> None:
        """Send what a solo lane's turn has answered."""
        for connection in self._unflushed:
            parts, connection.batch = connection.batch, []
            if connection.send(parts):
                self._unsent.append(connection)
                self._waker.send(b"w")
        self._unflushed.clear()


def main(config_json: bytes, parent_pid: int) -> int:
    """The worker process. Called by the launcher's child with its WorkerConfig."""
    process.die_with_parent(parent_pid)
    config = bus.worker_config(msgspec.json.decode(config_json))
    faults.arm(config.kill_point_file)
    faults.point("worker.start")
    process.limit_memory(config.memory_bytes)
    if config.batching is not None:
        process.keep_tensors()
    from seaway.telemetry import logs  # noqa: PLC0415 - after the limits, before anything that logs

    about = {"model": config.model, "version": config.version, "worker": config.worker_id}
    logs.configure("worker", config.log_level, config.log_format, file=config.log_file, about=about)
    # Engine threads share one GIL: a short request shouldn't wait 5 ms for another one's long decode.
    sys.setswitchinterval(0.001)
    return Worker(config).run()
