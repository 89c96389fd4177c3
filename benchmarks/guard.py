"""Says whether a request costs Seaway more processor time than it did, relative to the plainest server of its model.

    python benchmarks/guard.py            # compares with benchmarks/reference.json, status 1 when it grew too much
    python benchmarks/guard.py --update   # makes what is measured now the reference

Needs only what the tests need. A raw ASGI application that runs the same model (uvicorn, peers/plain.py) and Seaway
serve in turn, in short windows, the same requests of the same load generator, which runs in a process of its own. Only
their processor time counts, so that a slow machine changes both; the median ratio of the quietest windows is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import load, measure
from benchmarks.http_client import ask, register

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
REFERENCE = BENCHMARKS / "reference.json"
PACKAGE = ROOT / "examples" / "flights" / "package"
GROWTH = 4 / 3
"""How much of a growth is a failure."""
QUIET_PAIRS = 5
MOST_PAIRS = 30
QUIET_CORES = 0.2
"""Measuring ends with so many pairs of windows in which others took less than this; at the latest after MOST_PAIRS."""
DISTURBED_CORES = 0.5
SECONDS = 1.0
CONNECTIONS = 8
WARM_SECONDS = 0.5
START_SECONDS = 60.0
PATH = "/v2/models/flights/infer"
ROW = (1.0, 17.5, 1148.0, 66.92, 88.18, 16.11, 0.0, 0.25, 1012.0, 2.0, 5.0, 2.0, 60.0)


@dataclass(frozen=True)
class Pair:
    """A window of each server, side by side: processor time of a request, and how many cores others took."""

    plain_microseconds: float
    seaway_microseconds: float
    others: float

    @property
    def ratio(self) -> float:
        return self.seaway_microseconds / self.plain_microseconds


@dataclass(frozen=True)
class Measured:
    """One comparison, out of several pairs of windows."""

    pairs: tuple[Pair, ...]

    @property
    def quietest(self) -> tuple[Pair, ...]:
        """Busy neighbours raise the cost of one server more than the other's, by up to a half where this was tried."""
        return tuple(sorted(self.pairs, key=lambda pair: pair.others)[:QUIET_PAIRS])

    @property
    def disturbed(self) -> bool:
        """Whether others were too busy for the ratio to mean anything."""
        return max(pair.others for pair in self.quietest) > DISTURBED_CORES

    @property
    def ratio(self) -> float:
        return statistics.median(pair.ratio for pair in self.quietest)

    def as_dict(self) -> dict[str, Any]:
        pairs = self.quietest
        return {
            "ratio": round(self.ratio, 3),
            "plain_microseconds": round(statistics.median(pair.plain_microseconds for pair in pairs), 1),
            "seaway_microseconds": round(statistics.median(pair.seaway_microseconds for pair in pairs), 1),
            "cores_taken_by_others": round(max(pair.others for pair in pairs), 2),
            "pairs": len(self.pairs),
        }


def verdict(ratio: float, reference: float) -> str:
    """What is wrong; nothing if a request costs at most GROWTH times what the reference says."""
    if ratio <= reference * GROWTH:
        return ""
    return (
        f"A request costs Seaway {ratio:.2f} times what the plainest server takes; the reference is {reference:.2f}; "
        f"more than {reference * GROWTH:.2f} fails. Find what became slower, or, if it is worth it, run "
        "`python benchmarks/guard.py --update` and say why in the commit."
    )


def request() -> bytes:
    """One row of 13 numbers for the flights example, over the Open Inference Protocol."""
    tensor = {"name": "features", "shape": [1, len(ROW)], "datatype": "FP32", "data": ROW}
    body = json.dumps({"inputs": [tensor]}).encode()
    headers = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"POST {PATH} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


# ------------------------------------------------------------------------------------------------------ servers


@dataclass(frozen=True)
class Running:
    """A server whose processes carry a tag."""

    tag: str
    port: int

    def window(self, requests: Path, seconds: float) -> tuple[float, float]:
        """Microseconds of processor time for a request, and how many cores others took meanwhile."""
        meter = measure.Meter(self.tag)
        command = load.python_closed_command(self.port, requests, CONNECTIONS, seconds)
        answer = load.finish(load.start(command), seconds)
        spent, _, others = meter.read()
        if answer["errors"] or not answer["requests"]:
            raise RuntimeError(f"Not every request was answered: {answer}")
        return spent / answer["requests"] * 1e6, others


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, log: Path) -> Iterator[Running]:
    """A server for the time of a `with`; then nothing of it is left."""
    tag = f"guard-{name}-{os.getpid()}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SEAWAY_")}
    # Of this checkout, whichever is installed.
    environment = {
        **kept, measure.TAG: tag, "GUARD_MODEL": str(PACKAGE / "model.onnx"),
        "SEAWAY_LOG_LEVEL": "info", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Running(tag, port)
    finally:
        try:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        finally:
            # Also when somebody interrupts the waiting above.
            for pid in measure.tagged(tag):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(20)


def plain_command(port: int) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(_cores())]
    fastest = ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--no-access-log"]
    app = ["plain:app", "--app-dir", str(BENCHMARKS / "peers"), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", *app, *address, *fastest]


def seaway_command(port: int, home: Path) -> list[str]:
    return [sys.executable, "-m", "seaway", "serve", "--port", str(port), "--home", str(home)]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def wait_until_it_answers(port: int, method: str, path: str, body: bytes | None, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ask(port, method, path, body)[0] == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"A server did not start within {START_SECONDS:g} s.\n{log.read_text()[-2000:]}")


def compare(work: Path) -> Measured:
    """Both servers run all the time; the one that isn't asked idles."""
    requests = load.write_requests(work / "requests", [request()])
    body = request().partition(b"\r\n\r\n")[2]
    ports = load.free_port(), load.free_port()
    logs = work / "plain.log", work / "seaway.log"
    with (
        running("plain", plain_command(ports[0]), ports[0], logs[0]) as plain,
        running("seaway", seaway_command(ports[1], work / "home"), ports[1], logs[1]) as seaway,
    ):
        wait_until_it_answers(plain.port, "POST", "/", body, logs[0])
        wait_until_it_answers(seaway.port, "GET", "/v2/health/ready", None, logs[1])
        register(seaway.port, "flights", PACKAGE)
        wait_until_it_answers(seaway.port, "PUT", "/api/deployments/flights?wait=60", b"{}", logs[1])
        wait_until_it_answers(seaway.port, "POST", PATH, body, logs[1])
        for server in (plain, seaway):
            server.window(requests, WARM_SECONDS)
        return Measured(tuple(pairs(plain, seaway, requests)))


def pairs(plain: Running, seaway: Running, requests: Path) -> Iterator[Pair]:
    """Until enough of them were quiet."""
    quiet = 0
    for _ in range(MOST_PAIRS):
        floor, others = plain.window(requests, SECONDS)
        own, more = seaway.window(requests, SECONDS)
        yield Pair(floor, own, max(others, more))
        quiet += max(others, more) < QUIET_CORES
        if quiet == QUIET_PAIRS:
            return


def run() -> Measured:
    with tempfile.TemporaryDirectory(prefix="seaway-guard-") as work:
        return compare(Path(work))


def reference() -> float:
    return float(json.loads(REFERENCE.read_text())["ratio"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write what is measured as the reference")
    update = parser.parse_args().update
    measured = run()
    print(json.dumps(measured.as_dict()))
    if measured.disturbed:
        print("Others were busy on this machine meanwhile: the ratio is higher than on a quiet one.", file=sys.stderr)
    if update:
        REFERENCE.write_text(json.dumps(measured.as_dict(), indent=2) + "\n")
        return 0
    problem = verdict(measured.ratio, reference())
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
