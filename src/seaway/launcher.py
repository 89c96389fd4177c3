"""`seaway serve`: holds the listening socket and every child process, and does nothing else.

The socket is inherited by the gateways, so a dying gateway loses no queued connection. Children are started and
restarted here: control and gateways on their own, workers when control says so. Control may die and come back: the
workers are ours, not its. When this process dies, the kernel ends all children (parent-death signal).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from seaway.config import Settings, child_environment
from seaway.errors import ConfigurationError
from seaway.serving import bus
from seaway.serving.process import NOBODY_NEW, available_cpus
from seaway.telemetry import logs

log = structlog.get_logger()

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_FAST_DEATH_SECONDS = 1.0
_MAX_DEFAULT_GATEWAYS = 4
_MAX_BACKOFF_SECONDS = 5.0
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06
"""From <asm-generic/socket.h> and <linux/bpf_common.h>; Python names neither."""


@dataclass(slots=True)
class Child:
    """A process that is started again when it ends: control or a gateway."""

    name: str
    arguments: Sequence[str]
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    fast_deaths: int = 0


@dataclass(slots=True)
class Workers:
    """Worker processes by id, with the configuration they were started with."""

    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)


class Launcher:
    """The supervisor. Owns the run directory, the listening socket and all child processes."""

    def __init__(self, settings: Settings, listener: socket.socket, run: Path) -> None:
        self._settings = settings
        self._listener = listener
        self._run = run
        self._workers = Workers()
        self._control = Child("control", ["control", str(run)])
        fd = str(listener.fileno())
        self._gateways = [
            Child(f"gateway-{index}", ["gateway", str(run), str(index), fd], (listener.fileno(),))
            for index in range(settings.gateways or 1)
        ]
        self._writers: set[asyncio.StreamWriter] = set()
        self._stop = asyncio.Event()
        self._stopping = False
        self._announced = False
        self._refusal = ""
        """Why control can't start with these settings, if so."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start everything, keep it running, stop it in order: refuse, drain, stop.

        Raises ConfigurationError where control finds that the settings can't work.
        """
        loop = asyncio.get_running_loop()
        # Inherited: a worker that doesn't listen for it yet isn't ended by it.
        signal.signal(NOBODY_NEW, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        server = await asyncio.start_unix_server(self._serve, str(self._run / "launcher.sock"), limit=bus.LIMIT_BYTES)
        for child in (self._control, *self._gateways):
            self._start(child)
        await self._stop.wait()
        self._stopping = True
        await self._shut_down()
        server.close()
        if self._refusal:
            raise ConfigurationError(self._refusal)
        return 0

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._kill_all()
        self._stop.set()

    async def _shut_down(self) -> None:
        """Gateways first: they refuse new connections and finish what they have; then control; then the workers.

        Workers serve until then, but are told at once: what waits for company in a batch, gateways would wait for.
        """
        grace = self._settings.drain_seconds
        for worker in self._workers.processes.values():
            worker.send_signal(NOBODY_NEW)
        _refuse_connections(self._listener)
        self._listener.close()
        gateways = [gateway.process for gateway in self._gateways if gateway.process]
        await _end(gateways, grace + 2)
        await _end([self._control.process] if self._control.process else [], 2)
        await _end(list(self._workers.processes.values()), 2)

    def _kill_all(self) -> None:
        for process in [*self._workers.processes.values(), *(c.process for c in (self._control, *self._gateways))]:
            if process is not None:
                process.kill()

    # ------------------------------------------------------------------ children

    def _spawn(self, module: str, arguments: Sequence[str], pass_fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
        # -P: nothing in the working directory can be imported.
        # A process group of its own keeps a terminal's Ctrl-C from reaching children before us.
        return subprocess.Popen(  # noqa: S603 - our own interpreter and modules
            [sys.executable, "-P", "-m", module, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL, pass_fds=pass_fds, process_group=0,
            env=child_environment(worker=module == "seaway.serving"),
        )  # fmt: skip

    def _start(self, child: Child) -> None:
        if not self._stopping:
            child.started = time.monotonic()
            child.process = self._spawn("seaway.app", child.arguments, child.pass_fds)

    def _start_worker(self, config: dict[str, Any]) -> None:
        if self._stopping:
            return
        worker_id = str(config["worker_id"])
        path = self._run / f"{worker_id}.json"
        path.write_bytes(msgspec.json.encode(config))
        self._workers.processes[worker_id] = self._spawn("seaway.serving", [str(path)], ())
        self._workers.configs[worker_id] = config

    def _reap(self) -> None:
        """Collect the dead; start control and gateways again, tell control about workers."""
        for child in (self._control, *self._gateways):
            if child.process is not None and child.process.poll() is not None:
                self._restart(child)
        for worker_id, process in list(self._workers.processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self._workers.processes[worker_id]
            config = self._workers.configs.pop(worker_id)
            for name in (config["socket"], config["page"], self._run / f"{worker_id}.json"):
                Path(name).unlink(missing_ok=True)
            for writer in self._writers:
                bus.send(writer, "exited", worker_id=worker_id, pid=process.pid, status=status)

    def _restart(self, child: Child) -> None:
        assert child.process is not None  # noqa: S101 - narrows the type
        status, child.process = child.process.returncode, None
        if self._stopping:
            return
        if child is self._control and status == os.EX_CONFIG and not self._announced:
            # Nothing was served yet; later, gateways go on with what they have, and somebody may mend the database.
            self._refusal = (self._run / bus.REFUSAL_FILE).read_text()
            self._stop.set()
            return
        quick = time.monotonic() - child.started < _FAST_DEATH_SECONDS or status in {os.EX_CONFIG, os.EX_TEMPFAIL}
        child.fast_deaths = child.fast_deaths + 1 if quick else 0
        delay = min(0.1 * 2**child.fast_deaths, _MAX_BACKOFF_SECONDS) if child.fast_deaths else 0.0
        log.warning("launcher.restart", child=child.name, status=status, delay_seconds=delay)
        asyncio.get_running_loop().call_later(delay, self._start, child)

    # ------------------------------------------------------------------ control's requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async for message in bus.receive(reader):
                self._handle(message, writer)
        except bus.BusBroken as error:
            log.warning("launcher.control_lost", reason=str(error))
        finally:
            self._writers.discard(writer)
            writer.close()

    def _handle(self, message: bus.Message, writer: asyncio.StreamWriter) -> None:
        kind = message["kind"]
        if kind == "spawn":
            self._start_worker(message["config"])
        elif kind == "signal":
            process = self._workers.processes.get(message["worker_id"])
            if process is not None:
                process.send_signal(message["number"])
        elif kind == "replace_gateway":
            process = self._gateways[message["index"]].process
            if process is not None:
                process.kill()
        elif kind == "serving" and not self._announced:
            self._announced = True
            host, port = self._listener.getsockname()[:2]
            sys.stdout.write(f"Seaway listens on http://{f'[{host}]' if ':' in host else host}:{port}\n")
            sys.stdout.flush()
        elif kind == "list":
            pids = {worker_id: process.pid for worker_id, process in self._workers.processes.items()}
            workers = [{"config": self._workers.configs[worker_id], "pid": pid} for worker_id, pid in pids.items()]
            bus.send(writer, "workers", workers=workers)


async def _end(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """SIGTERM, and SIGKILL for those that still run after `seconds`."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        await asyncio.sleep(0.01)


def _listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises ConfigurationError when the address is open without a key, or taken."""
    if settings.host not in _LOOPBACK and settings.api_key is None and not settings.allow_open:
        raise ConfigurationError(
            f"Listening on {settings.host} without an API key would let anyone deploy models; set SEAWAY_API_KEY, "
            "listen on 127.0.0.1, or say --allow-open if something else guards the port."
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        flag = "--port" if error.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
        raise ConfigurationError(
            f"Can't listen on {settings.host}:{settings.port}: {error.strerror}; choose another with {flag}."
        ) from error
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def _refuse_connections(listener: socket.socket) -> None:
    """Let no new connection into the listener's queue, so that gateways can empty it before they close it.

    Linux: a packet filter that drops everything. A caller's SYN is repeated a second later and then refused, whereas a
    connection that the kernel takes just before the listener closes would be reset with its request.
    """
    if sys.platform != "linux":
        return
    drop_everything = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop_everything))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:
        # A sandboxed kernel may lack it; what remains is a gap of microseconds.
        log.debug("launcher.no_packet_filter", reason=str(error))


def _lock_home(home: Path) -> IO[str]:
    """One server for each home: the lock lives as long as the returned file. Raises ConfigurationError."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"The home {home} can't be written: {error.strerror}; choose another with --home."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigurationError(
            f"Another Seaway already serves from {home}; stop it, or choose another --home."
        ) from error
    return lock


def _make_run_directory(home: Path) -> Path:
    """A short-named private directory for sockets and pages (a Unix socket's path may have 107 bytes at most).

    What a launcher that was killed left behind is removed first; the lock on the home says that nobody uses it.
    """
    note = home / "run"
    if note.exists():
        left = Path(note.read_text().strip())
        if left.name.startswith("seaway-"):
            shutil.rmtree(left, ignore_errors=True)
    run_directory = Path(tempfile.mkdtemp(prefix="seaway-"))
    note.write_text(f"{run_directory}\n")
    return run_directory


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises ConfigurationError before anything has started."""
    gateways = settings.gateways or min(len(available_cpus()), _MAX_DEFAULT_GATEWAYS)
    settings = settings.model_copy(update={"gateways": gateways})
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock_home(settings.home))
        listener = stack.enter_context(_listen(settings))
        run_directory = _make_run_directory(settings.home)
        stack.callback(shutil.rmtree, run_directory, ignore_errors=True)
        (run_directory / "settings.json").touch(mode=0o600)
        (run_directory / "settings.json").write_bytes(settings.to_json())
        logs.configure("launcher", settings.log_level, settings.log_format, file=settings.log_file)
        return asyncio.run(Launcher(settings, listener, run_directory).run())
