"""A real Seaway for tests: started as a user starts it, on a free port with a home of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from seaway.client.connections import PerThread

START_SECONDS = 60.0
STOP_SECONDS = 20.0
_ANNOUNCEMENT = "Seaway listens on "


class SeawayServer:
    """`seaway serve` as a context manager. Settings are keyword arguments, by their names in seaway.config.

    with SeawayServer(gateways=2) as server:
        httpx.get(f"{server.url}/v2/health/ready")
    """

    def __init__(self, home: Path | None = None, *, wait_until_ready: bool = True, **settings: Any) -> None:
        self._own_home = None if home else tempfile.mkdtemp(prefix="seaway-test-")
        self.home = home or Path(str(self._own_home))
        self.home.mkdir(parents=True, exist_ok=True)
        self.url = ""
        self._settings = settings
        self._wait_until_ready = wait_until_ready
        self._process: subprocess.Popen[str] | None = None
        self._stderr: IO[str] | None = None
        self._http: httpx.Client | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGTERM)
        if self._http is not None:
            self._http.close()
        if self._stderr is not None:
            self._stderr.close()
        if self._own_home:
            shutil.rmtree(self._own_home, ignore_errors=True)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start (again, after `stop`) on the same home; returns when every deployment there has settled."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEAWAY_")}
        environment |= {f"SEAWAY_{name.upper()}": _text(value) for name, value in self._settings.items()}
        self._stderr = (self.home / "stderr.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "seaway", "serve", "--port", "0", "--home", str(self.home)],
            env=environment, cwd=self.home, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._stderr,
        )  # fmt: skip
        self.url = self._announced(self._process)
        if self._http is not None:
            self._http.close()
        key = self._settings.get("api_key")
        self._http = httpx.Client(
            base_url=self.url, timeout=30, headers={"Authorization": f"Bearer {key}"} if key else {}, trust_env=False,
            transport=PerThread(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        )  # fmt: skip
        if self._wait_until_ready:
            wait_until(self._ready, START_SECONDS, self.stderr)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the launcher a signal and wait for its end; the exit status, negative for a signal."""
        process = self._running()
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            message = f"The server still ran {STOP_SECONDS:g} s after {number.name}.\n{self.stderr()}"
            raise AssertionError(message) from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
            if self._stderr is not None:
                self._stderr.close()

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop and start on the same home; the port is a new one."""
        self.stop(number)
        self.start()

    # ------------------------------------------------------------------ what tests ask

    @property
    def http(self) -> httpx.Client:
        """A plain HTTP client with this server's address and API key, for any number of threads."""
        assert self._http is not None, "The server has not been started."
        return self._http

    @property
    def client(self) -> Any:
        """Seaway's own client, as users get it."""
        from seaway.client import Client

        return Client(self.url, api_key=self._settings.get("api_key"))

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self._running().pid

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name: launcher, control, gateway-0 ..., and each worker by its id."""
        live = self.http.get("/api/status").raise_for_status().json()
        workers = [worker for model in live["models"].values() for worker in model["workers"]]
        return {
            "launcher": self.pid,
            **{f"gateway-{gateway['index']}": gateway["pid"] for gateway in live["gateways"]},
            **{worker["worker_id"]: worker["pid"] for worker in workers},
            "control": next(pid for pid, command in children(self.pid) if f" {self.pid} control " in command),
        }

    def stderr(self) -> str:
        """What the server has logged so far."""
        path = self.home / "stderr.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def register(self, model: str, package: Path) -> dict[str, Any]:
        """Upload a package (a directory or one file) over HTTP; the version as the API describes it."""
        files = [package] if package.is_file() else sorted(path for path in package.rglob("*") if path.is_file())
        root = package.parent if package.is_file() else package
        parts = [("files", (path.relative_to(root).as_posix(), path.read_bytes())) for path in files]
        answer = self.http.post(f"/api/models/{model}/versions", files=parts, timeout=120)
        assert answer.status_code in {200, 201}, answer.text
        return dict(answer.json())

    def deploy(self, model: str, version: int | str | None = None, **body: Any) -> dict[str, Any]:
        """Deploy and wait until that revision answers."""
        answer = self.http.put(
            f"/api/deployments/{model}", params={"wait": 60}, json={"version": version, **body}, timeout=90
        )
        assert answer.status_code == httpx.codes.OK, answer.text
        assert answer.json()["state"] == "ready", answer.text
        return dict(answer.json())

    # ------------------------------------------------------------------ inner

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "The server has not been started."
        return self._process

    def _ready(self) -> bool:
        status = self._running().poll()
        assert status is None, f"The server ended with status {status}.\n{self.stderr()}"
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/v2/health/ready").status_code == httpx.codes.OK
        return False

    def _announced(self, process: subprocess.Popen[str]) -> str:
        """The address on the line that the launcher prints; standard output is read on, so that nobody blocks on it."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            with contextlib.suppress(ValueError):  # closed by stop()
                for line in process.stdout:
                    lines.put(line)
            lines.put(None)

        threading.Thread(target=read, name="server-stdout", daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"No address within {START_SECONDS:g} s.\n{self.stderr()}") from None
            assert line is not None, f"The server ended with status {process.wait(5)}.\n{self.stderr()}"
            if line.startswith(_ANNOUNCEMENT):
                return line.removeprefix(_ANNOUNCEMENT).strip()


def wait_until(fact: Any, seconds: float, explain: Any = str) -> None:
    """Ask `fact` every 20 ms until it is true; fails with `explain()` when it isn't within `seconds`."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"Not within {seconds:g} s.\n{explain()}"
        time.sleep(0.02)


def children(pid: int) -> Iterator[tuple[int, str]]:
    """The direct children of a process with their command lines (Linux)."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
