"""A running system: started, asked whether its answers are right, loaded, and stopped with all its processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks import bodies, load, measure
from benchmarks.cells import ISOLATION_CONNECTIONS, Cell
from benchmarks.models import load as load_model
from benchmarks.systems.base import Launch, System

START_SECONDS = 120.0
STOP_SECONDS = 15.0
TOLERANCE = 2e-4
MIXING_SECONDS = 0.5
"""How long the slow model is under load before the fast one beside it is measured."""


class StartError(RuntimeError):
    """A system did not start, or its answers are wrong."""


def free_ports() -> int:
    """The first of three free ports in a row: some servers want more than one."""
    for _ in range(100):
        port = load.free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for offset in range(3):
                one = stack.enter_context(socket.socket())
                one.bind(("127.0.0.1", port + offset))
            return port
    raise StartError("There are no three free ports in a row.")


@dataclass
class Server:
    """A context manager: the system runs inside it, and nothing of it is left after."""

    system: System
    home: Path
    logs: Path
    models: tuple[str, ...]
    favoured: bool = False
    start_seconds: float = 0.0
    _tag: str = ""
    _port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _requests: dict[str, Path] = field(default_factory=dict)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._tag:
            return
        try:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            self._reaped(STOP_SECONDS)
        finally:
            # Also when somebody interrupts the waiting above.
            for pid in measure.tagged(self._tag):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._reaped(STOP_SECONDS)

    def _reaped(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._process is not None:
                self._process.poll()
            if not measure.tagged(self._tag):
                return True
            time.sleep(0.1)
        return False

    # ------------------------------------------------------------------ start

    def _start(self) -> None:
        self._port = free_ports()
        self._tag = f"{self.system.name}-{os.getpid()}-{time.monotonic_ns()}"
        launch = Launch(self._port, self.home, self.models, len(os.sched_getaffinity(0)))
        environment = self._environment(launch)
        if not self.home.exists():
            self.home.mkdir(parents=True)
            if self.system.prepare is not None:
                self.system.prepare(launch, environment)
        log = (self.logs / f"{self.system.name}.log").open("w")
        with log:
            started = time.perf_counter()
            self._process = subprocess.Popen(
                self.system.command(launch), env=environment, cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._wait_until_right(started)
        if self.favoured:
            measure.favour([*measure.tagged(self._tag), os.getpid()])

    def _environment(self, launch: Launch) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEAWAY_", "PYTHON"))}
        return {**kept, measure.TAG: self._tag, **launch.environment, **self.system.environment(launch)}

    def _wait_until_right(self, started: float) -> None:
        """Until each model has given a right answer; the time of that is the time of the start."""
        assert self._process is not None
        problem = ""
        waiting = list(self.models)
        while waiting:
            if self._process.poll() is not None and not measure.tagged(self._tag):
                raise StartError(f"{self.system.name} ended with status {self._process.returncode}; see its log.")
            if time.perf_counter() - started > START_SECONDS:
                raise StartError(f"{self.system.name} did not start: {problem}")
            problem = self.problem(Cell("", waiting[0], self._first_wire(waiting[0])))
            if problem:
                time.sleep(0.05)
            else:
                waiting.pop(0)
        self.start_seconds = time.perf_counter() - started

    def _first_wire(self, model: str) -> str:
        if model in self.system.text:
            return "text"
        return "binary" if model == "identity" else "json"

    # ------------------------------------------------------------------ answers

    def problem(self, cell: Cell) -> str:
        """What is wrong with the answer to a cell's first request; nothing if it is ONNX Runtime's."""
        wire = self.wire(cell)
        try:
            status, headers, body = self._ask(self.requests(cell)[0])
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        if status != http.client.OK:
            return f"HTTP {status}: {body[:200]!r}"
        if not self.system.checked or cell.wire == "text":
            return ""
        expected = load_model(cell.model).expected[0].ravel()
        try:
            numbers = bodies.numbers_of(wire, body, headers)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return f"unreadable answer ({type(error).__name__}: {error}): {body[:200]!r}"
        if numbers.shape != expected.shape:
            return f"{numbers.size} numbers instead of {expected.size}"
        difference = float(np.abs(numbers - expected).max())
        return "" if difference < TOLERANCE else f"wrong by {difference:.2g}"

    def _ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(("127.0.0.1", self._port), 20) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            body = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body

    def wire(self, cell: Cell) -> str:
        return self.system.json_wire if cell.wire == "json" else cell.wire

    def requests(self, cell: Cell) -> list[bytes]:
        """What the load generator sends in turn."""
        if cell.wire == "text":
            body = b'{"inputs": "%s"}' % bodies.SENTENCE.encode()
            return [bodies.request(f"/predict/{cell.model}", body, {})]
        model = load_model(cell.model)
        return bodies.requests_of(model, self.wire(cell), self.system.path(cell.model), cell.variant)

    def _file(self, cell: Cell) -> Path:
        key = re.sub(r"\W+", "-", f"{self.system.name} {cell.model} {cell.wire} {cell.variant}").strip("-")
        if key not in self._requests:
            self._requests[key] = load.write_requests(self.logs / f"{key}.requests", self.requests(cell))
        return self._requests[key]

    # ------------------------------------------------------------------ load

    def warm_up(self, cell: Cell, seconds: float) -> None:
        """The first requests of a kind, which are not measured."""
        self._run(load.python_closed_command(self._port, self._file(cell), 8, seconds), seconds)

    def measure(self, cell: Cell, seconds: float) -> dict[str, Any]:
        """One window: what the generator saw, and what the server spent meanwhile."""
        if not cell.beside:
            return self._window(cell, seconds)
        neighbour = Cell(cell.group, cell.beside)
        duration = seconds + 4 * MIXING_SECONDS
        command = load.closed_command(self._port, self._file(neighbour), ISOLATION_CONNECTIONS, duration)
        process = load.start(command)
        try:
            time.sleep(MIXING_SECONDS)
            window = self._window(cell, seconds)
            slow = load.finish(process, duration)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        # The server's time is for both models here, so that it says nothing about a request.
        window.pop("cpu_seconds_per_1000")
        return {**window, "beside_requests_per_second": slow["requests_per_second"], "beside_p99_ms": slow["p99_ms"]}

    def _window(self, cell: Cell, seconds: float) -> dict[str, Any]:
        path = self._file(cell)
        if cell.load == "open":
            command = load.open_command(self._port, path, cell.level, seconds)
        else:
            command = load.closed_command(self._port, path, cell.level, seconds)
        meter = measure.Meter(self._tag)
        answer = self._run(command, seconds)
        spent, generator, others = meter.read()
        answer["errors"] += answer.get("refused", 0)  # none of these loads is more than a server should take
        answer["cpu_seconds"] = spent
        answer["cpu_seconds_per_1000"] = spent * 1000 / answer["requests"] if answer["requests"] else None
        answer["generator_seconds_per_1000"] = generator * 1000 / answer["requests"] if answer["requests"] else None
        answer["cores_taken_by_others"] = others
        return answer

    def _run(self, command: list[str], seconds: float) -> dict[str, Any]:
        return load.finish(load.start(command), seconds)

    def footprint(self) -> dict[str, float]:
        pids = measure.tagged(self._tag)
        return {"memory_mib": measure.memory_mib(pids), "processes": len(pids)}
