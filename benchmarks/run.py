"""Measures Seaway, other servers and what is possible, in interleaved rounds on this machine. `make bench` calls it.

    benchmarks/.venvs/bench/bin/python benchmarks/run.py [--quick] [--rounds 5] [--systems A,B] [--only A,B]

scripts/setup_benchmarks makes the environments and the models first. Only 127.0.0.1 is asked, each window is bounded,
and no process is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import limit, measure, report
from benchmarks.cells import CELLS, GROUPS, Cell, cells_of, models_of
from benchmarks.models import MODELS, build, build_sentences
from benchmarks.paths import LOGS, RESULTS, ROOT, python
from benchmarks.server import Server, StartError
from benchmarks.systems import DEFAULT, LIMIT, MORE, SYSTEMS
from benchmarks.systems.base import System

START_ESTIMATE_SECONDS = 6.0
OVERHEAD_SECONDS = 0.4
"""Of a window, beside the window: starting the generator, reading the counters."""
QUICK_GROUPS = ("tabular",)


@dataclass(frozen=True)
class Plan:
    """What one run measures."""

    systems: tuple[System, ...]
    groups: tuple[str, ...]
    rounds: int
    window: float
    limit: bool
    favoured: bool

    def cells(self, system: System) -> list[Cell]:
        return cells_of(system, self.groups)

    @property
    def limits(self) -> list[Cell]:
        wanted = models_of([cell for cell in CELLS if cell.group in self.groups])
        models = [model for model in limit.MODELS if self.limit and model in wanted]
        return [
            Cell("limit", model, level=0, variant=variant)
            for model in models
            for variant in ("", "shared")
            if not variant or model in limit.SHARED
        ]

    def seconds(self, system: System) -> float:
        """About how long a system takes in a round."""
        cells = self.cells(system)
        warming = len({(cell.model, cell.wire) for cell in cells}) * self.window / 2
        return START_ESTIMATE_SECONDS + warming + sum(cell.seconds(self.window) + OVERHEAD_SECONDS for cell in cells)

    @property
    def total_seconds(self) -> float:
        limits = len(self.limits) * (self.window + OVERHEAD_SECONDS)
        return self.rounds * (limits + sum(self.seconds(system) for system in self.systems))


@dataclass
class Results:
    """Samples by system and cell, as they come in."""

    samples: dict[tuple[str, Cell], list[dict[str, Any]]] = field(default_factory=dict)
    starts: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, system: str, cell: Cell, sample: dict[str, Any]) -> None:
        self.samples.setdefault((system, cell), []).append(sample)

    def skip(self, system: str, reason: str) -> None:
        self.skipped.setdefault(system, reason)

    def as_dict(self) -> dict[str, Any]:
        return {
            "skipped": self.skipped,
            "systems": {name: medians(samples) for name, samples in self.starts.items()},
            "cells": [
                {"system": system, **dataclasses.asdict(cell), "medians": medians(samples), "rounds": samples}
                for (system, cell), samples in self.samples.items()
            ],
        }


def medians(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each number over the rounds; errors are added up."""
    names = dict.fromkeys(name for sample in samples for name, value in sample.items() if value is not None)
    values = {name: [sample[name] for sample in samples if sample.get(name) is not None] for name in names}
    picked = {name: statistics.median(numbers) for name, numbers in values.items()}
    if "errors" in values:
        picked["errors"] = sum(values["errors"])
    return picked


class Run:
    """Goes through a plan; each round measures every system once, so that a disturbance meets them alike."""

    def __init__(self, plan: Plan, work: Path, progress: Progress) -> None:
        self.plan = plan
        self.results = Results()
        self._work = work
        self._progress = progress
        self._task = progress.add_task("", total=plan.total_seconds)

    def rounds(self) -> None:
        for number in range(self.plan.rounds):
            self._limits(number)
            for system in self.plan.systems:
                self._show(number, system.title)
                if system.name not in self.results.skipped:
                    self._system(number, system)
                self._progress.update(self._task, completed=self._done(number, system))

    def _done(self, number: int, last: System) -> float:
        limits = len(self.plan.limits) * (self.plan.window + OVERHEAD_SECONDS)
        each = [self.plan.seconds(system) for system in self.plan.systems]
        return number * (limits + sum(each)) + limits + sum(each[: self.plan.systems.index(last) + 1])

    def _show(self, number: int, what: str) -> None:
        self._progress.update(self._task, description=f"round {number + 1} of {self.plan.rounds}: {what}")

    def _limits(self, number: int) -> None:
        for cell in self.plan.limits:
            self._show(number, f"ONNX Runtime alone, {cell.model}")
            measured = limit.measure_limit(cell.model, self.plan.window, shared=cell.variant == "shared")
            self.results.add(LIMIT, cell, measured)
            self._progress.advance(self._task, self.plan.window + OVERHEAD_SECONDS)

    def _system(self, number: int, system: System) -> None:
        cells = self.plan.cells(system)
        home = self._work / system.name
        try:
            with Server(system, home, LOGS, models_of(cells), self.plan.favoured) as server:
                self._cells(number, server, cells)
                start = {"start_seconds": server.start_seconds, **server.footprint()}
                self.results.starts.setdefault(system.name, []).append(start)
        except (StartError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            self.results.skip(system.name, f"{error}")

    def _cells(self, number: int, server: Server, cells: list[Cell]) -> None:
        warm: set[tuple[str, str, str]] = set()
        for cell in cells:
            self._show(number, f"{server.system.title}, {cell.key}")
            kind = (cell.model, cell.wire, cell.variant)
            if kind not in warm:
                warm.add(kind)
                if problem := server.problem(cell):
                    self.results.skip(f"{server.system.name}: {cell.key}", problem)
                    continue
                server.warm_up(cell, self.plan.window / 2)
            seconds = cell.seconds(self.plan.window)
            self.results.add(server.system.name, cell, server.measure(cell, seconds))
            self._progress.advance(self._task, seconds + OVERHEAD_SECONDS)


# ------------------------------------------------------------------------------------------------------ result file


def versions(systems: Iterable[System]) -> dict[str, str]:
    """Of what was measured, each asked in its own environment."""
    found = {"wrk": _wrk_version(), "onnxruntime": importlib.metadata.version("onnxruntime")}
    for system in systems:
        code = f"import importlib.metadata as m; print(m.version({system.package!r}))"
        done = subprocess.run([python(system.venv), "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0 and system.package:
            found[system.package] = done.stdout.strip()
    return found


def _wrk_version() -> str:
    if not shutil.which("wrk"):
        return "not installed; Python's generator was used"
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk (\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def rounded(value: Any) -> Any:
    """With six significant digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value


def whole_result(plan: Plan, results: Results) -> dict[str, Any]:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return {
        "date": today,
        "commit": measure.commit(ROOT),
        "machine": measure.machine(),
        "versions": versions(plan.systems),
        "settings": {"rounds": plan.rounds, "window_seconds": plan.window, "groups": list(plan.groups),
                     "favoured": plan.favoured},
        "titles": {LIMIT: "ONNX Runtime alone", **{system.name: system.title for system in plan.systems}},
        **results.as_dict(),
    }  # fmt: skip


def file_name(result: dict[str, Any]) -> str:
    processor = re.sub(r"[^a-z0-9]+", "-", str(result["machine"]["processor"]).lower()).strip("-")
    return f"{result['date']}-{processor}"


# ------------------------------------------------------------------------------------------------------ command line


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(system.name for system in MORE)}")
    parser.add_argument("--systems", metavar="A,B", help=f"out of {LIMIT}, {', '.join(SYSTEMS)}")
    parser.add_argument("--only", metavar="A,B", help=f"groups of cells, out of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; figures are medians over the rounds")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of one measurement, default 2")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s windows, tabular model only")
    parser.add_argument("--favour", action="store_true", help="put servers before other users' processes (needs root)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write; default benchmarks/results")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.window < 1:
        parser.error("--rounds and --window are at least 1.")
    given.only = _chosen(parser, "--only", given.only, list(GROUPS))
    given.systems = _chosen(parser, "--systems", given.systems, [LIMIT, *SYSTEMS])
    return given


def _chosen(parser: argparse.ArgumentParser, option: str, text: str | None, known: list[str]) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{option}: {', '.join(unknown)} is not one of {', '.join(known)}.")
    return names


def plan_of(given: argparse.Namespace) -> tuple[Plan, dict[str, str]]:
    """The plan, and which of the systems are left out because they are not installed."""
    if given.systems is not None:
        wanted = [SYSTEMS[name] for name in given.systems if name != LIMIT]
    else:
        wanted = [*DEFAULT, *(MORE if given.all else ())]
    groups = given.only or (QUICK_GROUPS if given.quick else tuple(GROUPS))
    asked = [system for system in wanted if cells_of(system, groups)]
    missing = {system.name: system.missing for system in asked if system.missing}
    plan = Plan(
        systems=tuple(system for system in asked if not system.missing),
        groups=groups,
        rounds=1 if given.quick else given.rounds,
        window=1.0 if given.quick else given.window,
        limit=given.systems is None or LIMIT in given.systems,
        favoured=given.favour,
    )
    return plan, missing


def build_models(plan: Plan) -> None:
    """Whatever is not built yet, of what this plan needs."""
    needed = models_of([cell for system in plan.systems for cell in plan.cells(system)])
    wanted = dict.fromkeys([*needed, *models_of(plan.limits)])
    if "minilm_int8" in wanted:
        build("minilm")
    for name in wanted:
        if name == "sentences":
            build_sentences()
        elif not (MODELS / name / "expected.npy").exists():
            build(name)


def interrupted(number: int, frame: object) -> None:
    """A SIGTERM ends the run as Ctrl-C does: through every `with`, so that no server is left."""
    raise KeyboardInterrupt


def main() -> int:
    given = parse()
    plan, missing = plan_of(given)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, interrupted)
    LOGS.mkdir(exist_ok=True)
    build_models(plan)
    minutes = plan.total_seconds / 60
    console.print(f"{len(plan.systems)} systems, {plan.rounds} rounds, about {minutes:.0f} minutes.")
    if not shutil.which("wrk"):
        console.print("wrk is missing, so a slower generator in Python is used: apt-get install wrk")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with (
        tempfile.TemporaryDirectory(prefix="seaway-benchmark-") as work,
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
    ):
        run = Run(plan, Path(work), progress)
        for name, reason in missing.items():
            run.results.skip(name, reason)
        try:
            run.rounds()
        except KeyboardInterrupt:
            console.print("Interrupted; nothing is written.")
            return 130
    result = rounded(whole_result(plan, run.results))
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{file_name(result)}{'-quick' if given.quick else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    page = report.write_page(result, path.with_suffix(".html"))
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        report.print_tables(result, Console())
    console.print(f"Written: {path} and {page.name}")
    return 0 if run.results.samples else 1


if __name__ == "__main__":
    sys.exit(main())
