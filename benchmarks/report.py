"""Tables and plots of a result file.

    python benchmarks/report.py benchmarks/results/2026-01-31-some-processor.json [--docs]

prints the tables and writes the page beside the file. --docs also writes docs/benchmark.svg, the plot of the README,
and the section of docs/benchmarks.md between its two marks.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import aims
from benchmarks.cells import GROUPS
from benchmarks.paths import ROOT

Result = dict[str, Any]
BEGIN, END = "<!-- results begin -->", "<!-- results end -->"
COLOURS = {"seaway": "#0b6e99", "seaway-worker": "#4fa3c4", "constant": "#9a9a9a"}
OTHERS = "#c9b458"


@dataclass(frozen=True)
class Grid:
    """A table, before anybody decides how it is shown. A row of one cell is a heading."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits; thousands without any after the point."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _heading(cell: dict[str, Any]) -> str:
    """What a cell asks, and how."""
    wire = {"json": "JSON", "binary": "binary tensors", "text": "strings"}[cell["wire"]]
    load = f"{cell['level']} requests/s" if cell["load"] == "open" else f"{cell['level']} connections"
    parts = [cell["model"], wire, load.removesuffix("s") if load == "1 connections" else load]
    parts.append({"traceparent": "traceparent sent", "unseen": "unseen heads"}.get(cell["variant"], ""))
    parts.append(f"beside {cell['beside']}" if cell["beside"] else "")
    return ", ".join(part for part in parts if part)


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "requests/s": lambda medians: number(medians["requests_per_second"]),
    "CPU s/1000": lambda medians: number(medians.get("cpu_seconds_per_1000")),
    "client": lambda medians: number(medians.get("generator_seconds_per_1000")),
    "p50 ms": lambda medians: number(medians["p50_ms"]),
    "p99 ms": lambda medians: number(medians["p99_ms"]),
    "p99.9 ms": lambda medians: number(medians["p999_ms"]),
    "errors": lambda medians: number(medians["errors"]),
}


def grids(result: Result) -> list[Grid]:
    """Every table of a result, in the order they are shown."""
    found = [_limit(result)]
    for group, title in GROUPS.items():
        cells = [cell for cell in result["cells"] if cell["group"] == group]
        if cells:
            found.append(_group(result, group, title, cells))
    found.append(_footprint(result))
    found.append(
        Grid("Seaway's aims: what it came to, medians beside medians", ("what", "measured", "aim"), aims.rows(result))
    )
    if result["skipped"]:
        found.append(Grid("Not measured", ("what", "why"), list(result["skipped"].items())))
    return [grid for grid in found if grid.rows]


def _limit(result: Result) -> Grid:
    rows: list[tuple[str, ...]] = []
    for cell in result["cells"]:
        if cell["group"] == "limit":
            medians = cell["medians"]
            names = ("requests_per_second", "cpu_seconds_per_1000", "p50_ms", "p99_ms")
            shared = ", weights shared" if cell["variant"] else ""
            line_ms = medians.get("line_p99_ms")  # unknown in older results
            turns = number(line_ms * medians["requests_per_second"] / IN_LINE / 1e3, 2) if line_ms else "-"
            rows.append((cell["model"] + shared, *(number(medians[name]) for name in names), turns))
    columns = ("model", "runs/s on all cores", "CPU s/1000", "p50 ms", "p99 ms", f"p99 of {IN_LINE} in line, turns")
    return Grid("ONNX Runtime alone: a process for each core, or, with weights shared, a thread", columns, rows)


IN_LINE = 8
"""Requests that always wait or run, in `peers/limit.py`."""
LIMITED = ("minilm", "int8", "vision")
"""The groups whose models take so long that ONNX Runtime alone is what a server can be held against."""


def _of_limit(limits: dict[str, float], cell: dict[str, Any]) -> tuple[str, str]:
    """Throughput as a part of ONNX Runtime's alone, and p99 in times of what that takes for one of each client."""
    limit, medians = limits.get(cell["model"]), cell["medians"]
    if not limit:
        return "-", "-"
    turn_ms = cell["level"] / limit * 1e3
    return f"{medians['requests_per_second'] / limit:.0%}", number(medians["p99_ms"] / turn_ms, 2)


def _group(result: Result, group: str, title: str, cells: list[dict[str, Any]]) -> Grid:
    """Systems under each other, once for each model, form and load."""
    limits = {
        cell["model"]: cell["medians"]["requests_per_second"]
        for cell in result["cells"]
        if cell["group"] == "limit" and not cell["variant"]
    }
    kinds: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        kinds.setdefault(_heading(cell), []).append(cell)
    order = list(result["titles"])
    isolation = group == "isolation"
    rows: list[tuple[str, ...]] = []
    for heading, members in kinds.items():
        rows.append((heading,))
        for cell in sorted(members, key=lambda cell: order.index(cell["system"])):
            medians = cell["medians"]
            row = [result["titles"][cell["system"]], *(show(medians) for show in COLUMNS.values())]
            if isolation:
                row.append(number(medians.get("beside_requests_per_second")))
            if group in LIMITED:
                row += _of_limit(limits, cell)
            rows.append(tuple(row))
    more = ("slow req/s",) if isolation else ("of limit", "p99 turns") if group in LIMITED else ()
    columns = ("system", *COLUMNS, *more)
    return Grid(title, columns, rows)


def _footprint(result: Result) -> Grid:
    rows = [
        (result["titles"][name], number(each["start_seconds"]), number(each["memory_mib"]), number(each["processes"]))
        for name, each in result["systems"].items()
    ]
    return Grid("Start to the first right answer of each model, and memory after all loads", (
        "system", "start s", "PSS MiB", "processes"), rows)  # fmt: skip


def summary(result: Result) -> str:
    """Where and how, in a sentence or two."""
    machine, settings = result["machine"], result["settings"]
    disturbed = [cell["medians"].get("cores_taken_by_others", 0.0) for cell in result["cells"] if not cell["beside"]]
    return (
        f"{result['date']}, commit {result['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Python {machine['python']}. Medians of {settings['rounds']} interleaved rounds "
        f"of {settings['window_seconds']:g} s windows; load generator and server share the cores. "
        f"Other work took at most {max(disturbed, default=0.0):.2f} cores in the median window of a cell."
    )


# ------------------------------------------------------------------------------------------------------ terminal, pages


def print_tables(result: Result, console: Console) -> None:
    console.print(summary(result))
    for grid in grids(result):
        console.print(f"\n[bold]{grid.title}")
        for heading, rows in _parts(grid):
            # Narrow enough for 80 columns: what a heading says in two words is two lines.
            table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
            for index, column in enumerate(grid.columns):
                if _is_text(grid, index):
                    table.add_column(column, overflow="fold")
                else:
                    table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            console.print(table)


def _parts(grid: Grid) -> list[tuple[str | None, list[tuple[str, ...]]]]:
    """The rows under each heading."""
    parts: list[tuple[str | None, list[tuple[str, ...]]]] = []
    for row in grid.rows:
        if len(row) == 1:
            parts.append((row[0], []))
        else:
            parts = parts or [(None, [])]
            parts[-1][1].append(row)
    return parts


def _is_text(grid: Grid, index: int) -> bool:
    return index == 0 or grid.columns[index] in {"why", "measured", "aim"}


def markdown(result: Result) -> str:
    parts = [summary(result), ""]
    for grid in grids(result):
        rule = ["---" if _is_text(grid, index) else "---:" for index in range(len(grid.columns))]
        parts += [f"### {grid.title}", "", _row(grid.columns), _row(tuple(rule))]
        parts += [_row(_spread(row, len(grid.columns))) for row in grid.rows]
        parts.append("")
    return "\n".join(parts)


def _spread(row: tuple[str, ...], width: int) -> tuple[str, ...]:
    return (f"**{row[0]}**", *[""] * (width - 1)) if len(row) == 1 else row


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 2rem}
td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #eee}
td.t,th.t{text-align:left}th[colspan]{padding-top:.8rem}svg{max-width:100%;height:auto}"""


def write_page(result: Result, path: Path) -> Path:
    """One file: tables, and plots as SVG in it."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Benchmark {result['date']}</title><style>{STYLE}</style>"]
    parts += ["<h1>Benchmark</h1>", f"<p>{html.escape(summary(result))}</p>"]
    if drawing := plot(result):
        parts.append(drawing[drawing.index("<svg") :])
    for grid in grids(result):
        parts.append(f"<h2>{html.escape(grid.title)}</h2><table>{_html_rows(grid)}</table>")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(f"<p>{html.escape(versions)}</p>")
    path.write_text("\n".join(parts) + "\n")
    return path


def _html_rows(grid: Grid) -> str:
    classes = [" class=t" if _is_text(grid, index) else "" for index in range(len(grid.columns))]
    heads = "".join(f"<th{kind}>{html.escape(name)}" for kind, name in zip(classes, grid.columns, strict=True))
    lines = [f"<tr>{heads}"]
    for row in grid.rows:
        if len(row) == 1:
            lines.append(f"<tr><th class=t colspan={len(classes)}>{html.escape(row[0])}")
            continue
        cells = "".join(f"<td{kind}>{html.escape(text)}" for kind, text in zip(classes, row, strict=True))
        lines.append(f"<tr>{cells}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ plot


def _values(result: Result, name: str, **wanted: Any) -> dict[str, float]:
    """One figure by system, of the cell that has these properties."""
    found = {}
    for cell in result["cells"]:
        if all(cell[key] == value for key, value in wanted.items()) and cell["medians"].get(name) is not None:
            found[cell["system"]] = cell["medians"][name]
    return found


PANELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "CPU time of a request, ms\n(30 numbers, JSON, 8 connections)",
        "cpu_seconds_per_1000",
        {"group": "tabular", "load": "closed", "level": 8, "variant": "", "wire": "json"},
    ),
    (
        "99th percentile, ms\n(300/s, beside a busy slow model; pale: alone)",
        "p99_ms",
        {"group": "isolation", "load": "open", "beside": "slow"},
    ),
)
ALONE = {"beside": ""}
"""What a cell with a model beside it is held against: the same cell without one, as a paler bar."""


def _panels(result: Result) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """Title and figures of each panel that there is something for; last, the figures that they are held against."""
    found = []
    for title, name, wanted in PANELS:
        alone = _values(result, name, **wanted | ALONE) if wanted.get("beside") else {}
        found.append((title, _values(result, name, **wanted), alone))
    return [panel for panel in found if panel[1]]


def figure_of(result: Result) -> Any:
    """Bars for each panel that the result has something for; None when there is no such panel."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    panels = _panels(result)
    if not panels:
        return None
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "benchmark", "svg.fonttype": "none", "font.family": "sans-serif"})
    size = (4.6 * len(panels), 2.9)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, (title, values, alone) in zip(axes[0], panels, strict=True):
        names = sorted(values, key=lambda name, of=values: of[name], reverse=True)
        axis.set_yticks(range(len(names)), [result["titles"][name] for name in names])
        height = 0.4 if alone else 0.8
        for shift, shown, alpha in ((height / 2 if alone else 0.0, values, 1.0), (-height / 2, alone, 0.45)):
            places = [place for place, name in enumerate(names) if name in shown]
            bars = axis.barh(
                [place + shift for place in places],
                [shown[names[place]] for place in places],
                height,
                color=[COLOURS.get(names[place], OTHERS) for place in places],
                alpha=alpha,
            )
            axis.bar_label(bars, [number(shown[names[place]], 2) for place in places], padding=3, fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.15)
    return figure


def plot(result: Result) -> str:
    """The SVG of it; empty when there is nothing to show."""
    figure = figure_of(result)
    if figure is None:
        return ""
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    figure.clear()
    return re.sub(r"[ \t]+$", "", drawing.getvalue(), flags=re.MULTILINE)


def write_docs(result: Result) -> None:
    """The plot that the README shows, and the tables of docs/benchmarks.md."""
    (ROOT / "docs" / "benchmark.svg").write_text(plot(result))
    page = ROOT / "docs" / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{markdown(result)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--docs", action="store_true", help="also write docs/benchmark.svg and docs/benchmarks.md")
    given = parser.parse_args()
    result = json.loads(given.result.read_text())
    print_tables(result, Console())
    write_page(result, given.result.with_suffix(".html"))
    if given.docs:
        write_docs(result)


if __name__ == "__main__":
    main()
