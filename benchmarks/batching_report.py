"""Tables and curves of what benchmarks/batching.py measured, and where its results are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.paths import RESULTS, ROOT, UNFINISHED
from seaway.cli import plot

Result = dict[str, Any]
BEGIN, END = "<!-- batching begin -->", "<!-- batching end -->"
LEGEND = "batches: p99 in times of a full batch; in ms: 99th percentile until a refusal"


@dataclass(frozen=True)
class Grid:
    """A table, before anybody decides how it is shown."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def grids(result: Result) -> list[Grid]:
    """What people compare."""
    found = {(one["load"], one["system"], one["level"]): one for one in result["windows"]}
    return [grid for grid in (_mixed(result, found), _full(result, found)) if grid.rows]


def _mixed(result: Result, found: dict[tuple[str, str, float], Result]) -> Grid:
    best = found.get(("mixed", "seaway", result["outstanding"]))
    rows = []
    for name, title in result["systems"].items():
        if one := found.get(("mixed", name, result["outstanding"])):
            ratio = _times(best["rows_per_second"], one["rows_per_second"]) if best else "-"
            rate, errors = f"{one['rows_per_second']:.1f}", f"{one['errors']:.0f}"
            rows.append((title, rate, ratio, f"{one['p50_ms']:,.0f}", f"{one['p99_ms']:,.0f}", errors))
    title = f"Mixed lengths, 8 to {result['max_length']} tokens, {result['outstanding']} requests outstanding"
    return Grid(title, ("system", "samples/s", "Seaway's is", "p50 ms", "p99 ms", "errors"), rows)


def _times(value: float, of: float) -> str:
    return f"{value / of:.2f} times" if of else "-"


def _full(result: Result, found: dict[tuple[str, str, float], Result]) -> Grid:
    limit, rows = result["limit"], []
    for name, title in result["systems"].items():
        for level in sorted(level for kind, system, level in found if kind == "full" and system == name):
            one = found["full", name, level]
            rate = one["rows_per_second"]
            rows.append((
                title, f"{level:.0%}", f"{rate:.1f}", f"{rate / limit['rows_per_second']:.0%}",
                f"{one['p50_ms']:,.0f}", f"{one['p99_ms']:,.0f}", f"{one['p99_ms'] / 1e3 / limit['batch_seconds']:.1f}",
                f"{one['refused']:.0f}", f"{one['refused_p99_ms']:.0f}" if one["refused"] else "-",
            ))  # fmt: skip
    title = (
        f"{result['max_length']} tokens, open loop. Offline limit {limit['rows_per_second']:.1f} samples/s, "
        f"a full batch takes {limit['batch_seconds'] * 1e3:.0f} ms"
    )
    columns = ("system", "offered", "1/s", "of limit", "p50 ms", "p99 ms", "batches", "refused", "in ms")
    return Grid(title, columns, rows)


def for_terminal(grid: Grid) -> Table:
    """Narrow enough for 80 columns: what a heading says in two words is two lines."""
    table = Table(title=grid.title, box=SIMPLE_HEAD, show_edge=False, padding=0)
    for column in grid.columns:
        table.add_column(column.replace(" ", "\n"), justify="left" if column == "system" else "right", no_wrap=True)
    before = ""
    for row in grid.rows:
        table.add_row("" if row[0] == before else row[0], *row[1:])
        before = row[0]
    return table


def drawing(result: Result) -> str:
    """Throughput and latency against offered load, as SVG."""
    rates: dict[str, tuple[float, ...]] = {}
    waits: dict[str, tuple[float, ...]] = {}
    levels: list[float] = sorted({one["level"] for one in result["windows"] if one["load"] == "full"})
    for name, title in result["systems"].items():
        found = {one["level"]: one for one in result["windows"] if (one["load"], one["system"]) == ("full", name)}
        if found.keys() == set(levels):
            rates[title] = tuple(100 * found[level]["rows_per_second"] / _limit(result) for level in levels)
            waits[title] = tuple(found[level]["p99_ms"] for level in levels)
    offered = tuple(round(100 * level) for level in levels)
    across = "offered, % of what the model does offline"
    title = f"Batches of up to {result['max_rows']} texts of {result['max_length']} tokens, open loop"
    panels = [plot.Panel("Answered, % of that", across, offered, rates), plot.Panel("p99, ms", across, offered, waits)]
    return plot.svg(title, panels) if levels else ""


def _limit(result: Result) -> float:
    """Samples a second offline."""
    return float(result["limit"]["rows_per_second"])


def for_docs(result: Result) -> str:
    """The section of docs/benchmarks.md."""
    machine, limit = result["machine"], result["limit"]
    lines = [
        f"{result['date']}, commit {result['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"{limit['device']} in {limit['dtype']}, {result['rounds']} rounds of {result['seconds']:g} s, "
        f"{result['rows_per_request']} sample a request, batches of at most {result['max_rows']} samples.",
    ]
    lines += ["", "![Answered requests and their p99 against offered load](batching.svg)"]
    for grid in grids(result):
        lines += ["", f"### {grid.title}", "", f"| {' | '.join(grid.columns)} |"]
        lines.append(f"| --- |{' ---: |' * (len(grid.columns) - 1)}")
        lines += [f"| {' | '.join(row)} |" for row in grid.rows]
    return "\n".join(lines)


def update_docs(result: Result) -> None:
    path = ROOT / "docs" / "benchmarks.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{for_docs(result)}\n\n{END}{after}")
    (ROOT / "docs" / "batching.svg").write_text(drawing(result))


def write(result: Result, directory: Path | None = None) -> list[Path]:
    """The result file, named by date, device and what it lacks, and its curves if it has any.

    Only a full run's lie among those that are committed, unless the caller says where.
    """
    device = str(result["limit"].get("device_name") or result["machine"]["processor"])
    lacks = "".join(f"-{part}" for part in result["lacks"])
    slug = "-".join(device.lower().replace("(", " ").replace(")", " ").split()[:3])
    directory = directory or (UNFINISHED if lacks else RESULTS)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result['date']}-batching-{slug}{lacks}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    curves = drawing(result)
    if not curves:
        return [path]
    path.with_suffix(".svg").write_text(curves)
    return [path, path.with_suffix(".svg")]
