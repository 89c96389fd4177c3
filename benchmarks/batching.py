"""Measures dynamic batching: throughput and latency of sentence vectors against offered load. `make bench-batching`.

    benchmarks/.venvs/batching/bin/python benchmarks/batching.py [--quick] [--device cuda] [--rows 64] [--json]

The model is all-MiniLM-L6-v2 through transformers, the largest batch 32 samples of 128 tokens for all. Two questions:

- mixed lengths (8 to 128 tokens), 64 requests outstanding: what batching, and batching by length, gain;
- full lengths in an open loop at parts of what the model does offline: how long requests take, and what happens when
  more is asked than can be done.

Systems are started in turn, one at a time, in interleaved rounds; figures are medians over rounds. The vectors of the
first request are compared with those of transformers itself before anything is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import load, measure
from benchmarks.batching_report import LEGEND, for_terminal, grids, update_docs, write
from benchmarks.http_client import ask
from benchmarks.paths import PEERS, ROOT

PACKAGE = ROOT / "examples" / "minilm_transformers" / "package"
MAX_ROWS, MAX_LENGTH = 32, 128
OUTSTANDING = 64
SHARES = (0.2, 0.5, 0.8, 1.0, 1.2)
"""Of the offline limit."""
START_SECONDS = 120.0
PAUSE_SECONDS = 2.0
"""Between two measurements, so that what the clients of one have left behind is no load on the next."""
MIN_COSINE = 0.999
MIN_BATCHES = 8
"""Full ones that fit into a measurement; the figures of fewer are those of where it happens to end."""
WORDS = (  # noqa: SIM905 - reads better
    "day time way year work part place case week point hand thing group problem fact world life man child eye"
).split()
"""Each is one token."""
Result = dict[str, Any]


@dataclass(frozen=True)
class System:
    """A server under test; `deploy` None: a script of peers/."""

    name: str
    title: str
    script: str = ""
    deploy: dict[str, Any] = field(default_factory=dict)


FULL = {
    "lane": "batch", "max_queue_size": OUTSTANDING,
    "max_batch_rows": MAX_ROWS, "max_batch_tokens": MAX_ROWS * MAX_LENGTH,
}  # fmt: skip
SYSTEMS = (
    System("seaway", "Seaway", deploy=FULL),
    System("seaway-unsorted", "Seaway, lengths mixed", deploy={**FULL, "length_bucketing": False}),
    System(
        "seaway-fixed", "Seaway, batches of 32 only",
        deploy={**FULL, "length_bucketing": False, "max_queue_delay_seconds": 5.0},
    ),
    System("seaway-single", "Seaway, no batching", deploy={"lane": "cpu", "max_queue_size": OUTSTANDING}),
    System("litserve", "LitServe", script="litserve_batching.py"),
    System("mosec", "mosec", script="mosec_batching.py"),
)  # fmt: skip


def texts(lengths: list[int], seed: int = 0) -> list[str]:
    """One text for each length, in tokens with the two special ones."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=length - 2)) for length in lengths]


def requests(path: str, samples: list[list[str]]) -> list[bytes]:
    """Whole HTTP requests; a single sample is sent bare."""
    bodies = [json.dumps({"inputs": rows[0] if len(rows) == 1 else rows}).encode() for rows in samples]
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def environment(device: str, port: int) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEAWAY_")},
        "PYTHONPATH": f"{ROOT / 'src'}", "BENCH_PACKAGE": str(PACKAGE), "BENCH_PORT": str(port),
        "BENCH_DEVICE": device, "BENCH_MAX_ROWS": str(MAX_ROWS), "BENCH_MAX_LENGTH": str(MAX_LENGTH),
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def offline_limit(device: str, seconds: float) -> Result:
    """The model alone, with its largest batch."""
    command = [sys.executable, str(PEERS / "batch_limit.py"), str(seconds)]
    output = subprocess.run(command, env=environment(device, 0), capture_output=True, text=True, check=False)
    if output.returncode:
        raise RuntimeError(f"The model can't be run alone: {output.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(output.stdout.strip().splitlines()[-1]))


@contextlib.contextmanager
def running(system: System, device: str) -> Iterator[tuple[int, str]]:
    """Port, and path to send requests to, of a started server that has answered rightly."""
    port = load.free_port()
    home = Path(tempfile.mkdtemp(prefix="seaway-bench-"))
    if system.script == "mosec_batching.py":
        command = [sys.executable, str(PEERS / system.script), "--port", str(port), "--timeout", "60000"]
        path = "/inference"
    elif system.script:
        command, path = [sys.executable, str(PEERS / system.script)], "/predict"
    else:
        command = [sys.executable, "-m", "seaway", "serve", "--port", str(port), "--home", str(home / "home")]
        path = "/predict/sentences"
    log = (home / "log").open("w")
    process = subprocess.Popen(
        command, env=environment(device, port), stdout=log, stderr=log, cwd=home, start_new_session=True
    )
    try:
        if not system.script:
            _deploy(port, system.deploy if system.deploy["lane"] == "cpu" else {**system.deploy, "device": device})
        _wait_until_right(port, path, process, home / "log")
        yield port, path
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(home, ignore_errors=True)


def _deploy(port: int, body: dict[str, Any]) -> None:
    _until(lambda: ask(port, "GET", "/v2/health/ready")[0] == http.client.OK, "Seaway did not start")
    command = [sys.executable, "-m", "seaway", "--url", f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        [*command, "register", "sentences", str(PACKAGE)],
        env=environment("cpu", port), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"Seaway did not take the model: {done.stderr}")
    status, answer = ask(port, "PUT", "/api/deployments/sentences?wait=100", json.dumps(body).encode())
    if status != http.client.OK or answer.get("state") != "ready":
        raise RuntimeError(f"Seaway did not deploy the model: {answer}")


def _until(fact: Any, problem: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if fact():
                return
        time.sleep(0.1)
    raise RuntimeError(f"{problem} within {START_SECONDS:g} s.")


def _wait_until_right(port: int, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    known = json.loads((PACKAGE / "known_answers.json").read_bytes())[0]
    body = json.dumps({"inputs": known["inputs"][0]}).encode()

    def right() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"It ended with status {process.returncode}: {log.read_text()[-500:]}")
        status, answer = ask(port, "POST", path, body)
        if status != http.client.OK:
            return False
        found, expected = np.ravel(answer["outputs"]), np.array(known["outputs"][0])
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        if not cosine > MIN_COSINE:
            raise RuntimeError(f"The answer is wrong: cosine {cosine}.")
        return True

    _until(right, "The server gave no answer")


@dataclass
class Runner:
    """Collects windows by (kind, level) and system."""

    device: str
    seconds: float
    rows: int
    home: Path
    mixed: bool = True
    windows: dict[tuple[str, str, float], list[Result]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def measure(self, system: System, shares: tuple[float, ...], limit: float, advance: Callable[[], None]) -> None:
        with running(system, self.device) as (port, path):
            chance = random.Random(7)
            mixed = self._file("mixed", path, [chance.randint(8, MAX_LENGTH) for _ in range(512 * self.rows)])
            full = self._file("full", path, [MAX_LENGTH] * 64 * self.rows)
            self._closed(port, mixed, 2.0)
            if self.mixed:
                time.sleep(PAUSE_SECONDS)
                self._keep("mixed", system, OUTSTANDING, self._closed(port, mixed, self.seconds))
                advance()
            for share in shares:
                time.sleep(PAUSE_SECONDS)
                rate = share * limit / self.rows
                command = [*load.open_command(port, full, rate, self.seconds), "--connections", "512"]
                window = load.finish(load.start(command), self.seconds)
                self._keep("full", system, share, window)
                advance()

    def _closed(self, port: int, path: Path, seconds: float) -> Result:
        return load.finish(load.start(load.python_closed_command(port, path, OUTSTANDING, seconds)), seconds)

    def _file(self, name: str, path: str, lengths: list[int]) -> Path:
        rows = texts(lengths)
        samples = [rows[at : at + self.rows] for at in range(0, len(rows), self.rows)]
        return load.write_requests(self.home / f"{name}.requests", requests(path, samples))

    def _keep(self, kind: str, system: System, level: float, window: Result) -> None:
        window["rows_per_second"] = window["requests_per_second"] * self.rows
        self.windows.setdefault((kind, system.name, level), []).append(window)

    def medians(self) -> list[Result]:
        keys = ("rows_per_second", "p50_ms", "p99_ms", "errors", "refused", "refused_p99_ms")
        return [
            {"load": kind, "system": system, "level": level, "rounds": len(windows)}
            | {key: median(window.get(key, 0.0) for window in windows) for key in keys}
            for (kind, system, level), windows in self.windows.items()
        ]


def long_enough(seconds: float, batch_seconds: float) -> float:
    """How long a measurement takes: as asked for, but several full batches at least.

    >>> long_enough(12.0, 0.5), long_enough(4.0, 0.75)
    (12.0, 6.0)
    """
    return max(seconds, MIN_BATCHES * batch_seconds)


def lacks(given: argparse.Namespace) -> list[str]:
    """What makes a run less than a full one, as its file is named for it."""
    chosen = set(filter(None, (given.systems or "").split(",")))
    partial = given.only or (chosen and chosen != {system.name for system in SYSTEMS})
    return ["quick"] * bool(given.quick) + ["partial"] * bool(partial)


def run(given: argparse.Namespace) -> Result:
    known = {system.name for system in SYSTEMS}
    if unknown := set((given.systems or "").split(",")) - known - {""}:
        raise SystemExit(f"No such system: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}.")
    chosen = [system for system in SYSTEMS if not given.systems or system.name in given.systems.split(",")]
    shares = (0.8, 1.2) if given.quick else SHARES
    if given.only == "mixed":
        shares = ()
    asks_mixed = given.only != "full"
    limit = offline_limit(given.device, given.seconds)
    console = Console(stderr=True)
    seconds = long_enough(given.seconds, limit["batch_seconds"])
    if seconds > given.seconds:
        console.print(f"Measurements take {seconds:.1f} s instead of {given.seconds:g}: {MIN_BATCHES} full batches.")
    steps = given.rounds * len(chosen) * (asks_mixed + len(shares))
    columns = (TextColumn("{task.description:26}"), BarColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as home, Progress(*columns, console=console) as progress:
        runner = Runner(given.device, seconds, given.rows, Path(home), mixed=asks_mixed)
        task = progress.add_task("", total=steps)
        for number in range(given.rounds):
            # To and fro, so that a machine that gets slower or faster meanwhile is no system's and no load's alone.
            order = slice(None, None, -1 if number % 2 else 1)
            for system in chosen[order]:
                progress.update(task, description=system.title)
                try:
                    runner.measure(system, shares[order], limit["rows_per_second"], lambda: progress.advance(task))
                except (RuntimeError, OSError) as error:
                    runner.failures[system.name] = str(error)
                    console.print(f"{system.title} is left out: {error}")
    return {
        "date": datetime.now(UTC).date().isoformat(), "commit": measure.commit(ROOT), "machine": measure.machine(),
        "max_rows": MAX_ROWS, "max_length": MAX_LENGTH, "outstanding": OUTSTANDING, "rows_per_request": given.rows,
        "seconds": round(seconds, 1), "rounds": given.rounds, "lacks": lacks(given), "limit": limit,
        "systems": {system.name: system.title for system in chosen},
        "failures": runner.failures, "windows": runner.medians(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=1, help="samples of a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of one measurement")
    parser.add_argument("--systems", metavar="A,B", help="out of " + ", ".join(system.name for system in SYSTEMS))
    parser.add_argument("--only", choices=["mixed", "full"], help="one of the two questions")
    parser.add_argument("--quick", action="store_true", help="one round of short measurements")
    parser.add_argument("--show", type=Path, metavar="RESULT", help="measure nothing, show this file")
    parser.add_argument("--docs", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where a new result is written")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds = 1, min(given.seconds, 4.0)
    if given.show and not given.show.is_file():
        raise SystemExit(f"There is no file {given.show}.")
    if given.docs and not given.show and lacks(given):
        raise SystemExit("Only a full run goes into the docs; leave --quick, --systems and --only away.")
    result = json.loads(given.show.read_text()) if given.show else run(given)
    if not result["windows"]:
        raise SystemExit("Nothing was measured, and nothing is written.")
    if given.docs:
        update_docs(result)
    paths = [given.show] if given.show else write(result, given.output)
    show(result, f"{'Shown' if given.show else 'Written'}: {' and '.join(map(str, paths))}", as_json=given.json)


def show(result: Result, where: str, *, as_json: bool) -> None:
    """The result on stdout; for a program, what is no JSON goes to stderr."""
    notes = Console(stderr=True, soft_wrap=True)
    if "quick" in result.get("lacks", ()):
        notes.print("A quick run's figures only show that it runs; they say nothing about speed.")
    if as_json:
        print(json.dumps(result))
        notes.print(where)
        return
    console = Console()
    for grid in grids(result):
        console.print(for_terminal(grid))
        console.print()
    print(LEGEND)
    print(where)


if __name__ == "__main__":
    main()
