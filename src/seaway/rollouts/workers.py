"""Control's line to the workers: their phase, load and cost; starts, drains and kills through the launcher."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from seaway.rollouts.plan import Phase, WorkerView
from seaway.serving import bus, calibration, messages
from seaway.serving.page import WorkerPage
from seaway.telemetry.batches import BatchCounters, DeviceUse, LimitsNow
from seaway.types import Calibration, WorkerConfig

log = structlog.get_logger()

POLL_SECONDS = 1.0
SILENT_SECONDS = 10.0
"""A worker that answers no status question for so long is stopped or wedged: it is killed and replaced."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process that control knows."""

    config: WorkerConfig
    """As the launcher has it, but `engines` is what calibration chose once that is known."""
    started_at: float
    pid: int = 0
    phase: Phase = Phase.STARTING
    reason: str = ""
    ready_at: float | None = None
    drain_at: float | None = None
    heard_at: float = 0.0
    answered: int = 0
    cpu_seconds: float = 0.0
    batches: BatchCounters | None = None
    device: DeviceUse | None = None
    limits: LimitsNow | None = None
    page: WorkerPage | None = None
    writer: asyncio.StreamWriter | None = None
    task: asyncio.Task[None] | None = None

    @property
    def view(self) -> WorkerView:
        return WorkerView(self.config.worker_id, self.config.revision, self.phase, self.started_at, self.reason)


@dataclass(frozen=True, slots=True)
class Death:
    """A worker's end, for the controller's books."""

    worker: Worker
    status: int

    @property
    def sentence(self) -> str:
        how = f"was killed by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"
        when = "while it served" if self.worker.ready_at else "before it was ready"
        return f"The worker process {how} {when}."


class WorkerFleet:
    """All workers of this server. The launcher owns the processes; this is what control knows and asks of them."""

    def __init__(
        self,
        launcher_socket: Path,
        *,
        changed: Callable[[], None],
        died: Callable[[Death], None],
        calibrated: Callable[[Worker, Calibration], None],
    ) -> None:
        """`calibrated` is called before a worker that measured its version is known to be ready, maybe repeatedly."""
        self._launcher_socket = launcher_socket
        self._changed = changed
        self._died = died
        self._calibrated = calibrated
        self._launcher: asyncio.StreamWriter | None = None
        self.workers: dict[str, Worker] = {}
        self._listed = asyncio.Event()

    async def connect(self) -> asyncio.Task[None]:
        """Adopt the workers that an earlier control left running. The task ends when the launcher is gone."""
        reader, self._launcher = await bus.connect(str(self._launcher_socket))
        task = asyncio.create_task(self._listen(reader), name="launcher-line")
        self._tell("list")
        await self._listed.wait()
        adopted = [worker for worker in self.workers.values() if worker.pid]
        deadline = time.monotonic() + 2.0
        # Rare and short: only after a control process died.
        while any(worker.heard_at == 0.0 for worker in adopted) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return task

    # ------------------------------------------------------------------ requests to the launcher

    def _tell(self, kind: str, **fields: object) -> None:
        assert self._launcher is not None  # noqa: S101 - connect() comes first
        bus.send(self._launcher, kind, **fields)

    def announce_serving(self) -> None:
        self._tell("serving")

    def replace_gateway(self, index: int) -> None:
        self._tell("replace_gateway", index=index)

    def start(self, config: WorkerConfig) -> None:
        self._tell("spawn", config=config)
        self._add(config, pid=0)

    def kill(self, worker_id: str, *, expected: bool = False) -> None:
        """End a worker at once; `expected`: its death is no failure."""
        if expected:
            self.workers[worker_id].phase = Phase.DRAINING
        self._tell("signal", worker_id=worker_id, number=int(signal.SIGKILL))

    def drain(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        worker.phase, worker.drain_at = Phase.DRAINING, time.monotonic()
        if worker.writer is not None:
            worker.writer.write(messages.pack(messages.DRAIN))

    # ------------------------------------------------------------------ what comes back

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async for message in bus.receive(reader):
            if message["kind"] == "workers":
                for entry in message["workers"]:
                    self._add(bus.worker_config(entry["config"]), pid=entry["pid"])
                self._listed.set()
            elif message["kind"] == "exited":
                self._exited(message["worker_id"], message["status"])

    def _add(self, config: WorkerConfig, *, pid: int) -> None:
        worker = Worker(config, time.monotonic(), pid)
        self.workers[config.worker_id] = worker
        worker.task = asyncio.create_task(self._follow(worker), name=f"follow-{config.worker_id}")

    def _exited(self, worker_id: str, status: int) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        if worker.task is not None:
            worker.task.cancel()
        if worker.page is not None:
            worker.page.close()
            worker.page = None
        self._died(Death(worker, status))
        self._changed()

    async def _follow(self, worker: Worker) -> None:
        """Read a worker's status until it ends. One task for each worker."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(worker.config.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                # The process is still importing; the launcher says when it has died instead.
                await asyncio.sleep(0.01)
                continue
            worker.writer = writer
            writer.write(messages.pack(messages.HELLO, messages.Hello(-1)))
            poll = asyncio.create_task(self._poll(worker, writer))
            try:
                await self._read(worker, reader)
            except ConnectionError:
                log.info("control.worker_line_broken", worker=worker.config.worker_id)
            finally:
                poll.cancel()
                worker.writer = None
                writer.close()
            await asyncio.sleep(0.1)

    async def _read(self, worker: Worker, reader: asyncio.StreamReader) -> None:
        frames = messages.FrameReader()
        while data := await reader.read(1 << 16):
            for frame in frames.feed(data):
                if frame.kind == messages.STATUS:
                    self._hear(worker, messages.decode_status(frame.meta))
                elif frame.kind == messages.CALIBRATION:
                    self._learn(worker, messages.decode_calibrated(frame.meta).calibration)

    def _learn(self, worker: Worker, measured: Calibration) -> None:
        order = worker.config.calibrate
        if order is not None:
            # The worker chose by the same figures and the same function.
            choice = calibration.choose(measured, cores=order.cores, asked=order.asked, gateways=order.gateways)
            worker.config = replace(worker.config, engines=choice.engines // choice.processes)
            self._calibrated(worker, measured)

    def _hear(self, worker: Worker, status: messages.Status) -> None:
        worker.pid = status.pid
        worker.heard_at = time.monotonic()
        worker.answered, worker.cpu_seconds = status.answered, status.cpu_seconds
        worker.batches, worker.device, worker.limits = status.batches, status.device, status.limits
        if worker.page is None:
            with contextlib.suppress(OSError):
                worker.page = WorkerPage.attach(worker.config.page, engines=worker.config.engines)
        if worker.phase is Phase.DRAINING or worker.phase == status.phase:
            return
        worker.phase, worker.reason = Phase(status.phase), status.reason
        if worker.phase is Phase.READY:
            worker.ready_at = time.monotonic()
        self._changed()

    async def _poll(self, worker: Worker, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            writer.write(messages.pack(messages.STATS))
            silent = time.monotonic() - worker.heard_at
            if worker.heard_at and silent > SILENT_SECONDS:
                log.error("worker.silent", worker=worker.config.worker_id, seconds=round(silent, 1))
                self.kill(worker.config.worker_id)
