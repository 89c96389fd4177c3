"""`seaway profile`: what a version costs, measured on the server and drawn here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from seaway.cli import plot, table
from seaway.cli.command import FAILED, Call, asks_server
from seaway.errors import NotFound
from seaway.types import Json

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
_STEPS = ("prepare", "run", "encode")


@asks_server
def profile(
    call: Call,
    model: Model,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION|ALIAS", help="Which version; without it, the newest.")
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Show the newest result; measure nothing.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves into this file too.")] = None,
) -> None:
    """Measure what a version costs: by rows, by length of text, by engines, by threads. It takes some 20 seconds."""
    wanted = version or _newest(call, model)
    found = call.client.get_profile(model, wanted) if stored else _measure(call, model, wanted)
    failed = found["state"] == "failed"
    if svg is not None and not failed and (found["result"] or found["batches"]):
        svg.write_text(plot.svg(_title(found), _panels(found)), encoding="utf-8")
    call.show(found, lambda one: None if failed else _print(one))
    if failed:
        table.complain(f"{model} version {found['version']}: {found['reason']}")
        raise typer.Exit(FAILED)


def _newest(call: Call, model: str) -> str:
    versions = call.client.get_model(model)["versions"]
    if not versions:
        raise NotFound(f"Model {model!r} has no version yet.")
    return str(versions[-1]["version"])


def _measure(call: Call, model: str, version: str) -> Json:
    from seaway.client import wait_until_profiled

    started = call.client.start_profile(model, version)
    with table.progress(f"{model} version {started['version']}") as tell:
        return wait_until_profiled(call.client, started, tell)


def _title(found: Json) -> str:
    measured = found["result"] or found["batches"]
    if measured is None:
        return f"{found['model']} version {found['version']} was never profiled; this is what its deployment found."
    machine = re.sub(r" (on|in) auto\b", "", measured["machine"])
    return f"{found['model']} version {found['version']} on {machine}"


def _print(found: Json) -> None:
    graph = found["graph"]
    if found["result"] is None:
        running = found["state"] == "running"
        table.say("It is measured for the first time; ask again in a moment." if running else f"{_title(found)}\n")
        if graph is not None:
            table.note(_graph(graph))
        _print_joint(found["joint"])
        _print_batches(found["batches"])
        return
    curves = found["result"]["curves"]
    table.note(f"{_title(found)}, {table.moment(found['result']['created_at'])}")
    if graph is not None:
        table.note(_graph(graph))
    _print_joint(found["joint"])
    if curves["rewritten"] != (graph is not None and graph["used"]):
        table.note(f"These curves were measured with its graph {'rewritten' if curves['rewritten'] else 'as exported'}")
    memory, peak = table.size(curves["memory_bytes"]), table.size(curves["peak_memory_bytes"])
    table.say(f"loads in {curves['load_seconds']:g} s; takes {memory}, at most {peak}\n")
    _print_times("rows", curves["rows"])
    if curves["lengths"]:
        _print_times("tokens", curves["lengths"])
    _print_points("engines", "requests_per_second", "requests/s", curves["engines"])
    _print_points("threads", "run_us", "run", curves["threads"])
    _print_batches(found["batches"])


def _print_joint(joint: Json | None) -> None:
    if joint is None:
        return
    if joint["rows"] == 1:
        table.note(f"Each request runs alone: {joint['why']}")
        return
    alone, together = _shown(joint["alone_ns"] / 1e3), _shown(joint["together_ns"] / 1e3)
    table.note(
        f"Up to {joint['rows']} samples of one shape that wait share a run (unless joint_runs is never), where a "
        f"sample takes {together} of CPU time instead of {alone}: as many as have {joint['numbers']:,} numbers "
        "together, all inputs counted"
    )


def _graph(graph: Json) -> str:
    """
    >>> _graph({"used": True, "what": "18 swish", "exported_ns": 576000, "rewritten_ns": 433000,
    ...     "max_difference": 6e-08, "why": "", "doubt": ""})
    'Its graph is served rewritten (18 swish): a run takes 433 µs instead of 576 µs; answers differ by at most 6e-08'
    """
    after, before = _shown(graph["rewritten_ns"] / 1e3), _shown(graph["exported_ns"] / 1e3)
    most = graph["max_difference"]
    off = "by more than any number" if most is None else f"by at most {most:.3g}"
    if not graph.get("compared", True):
        return (
            f"Its graph is served as exported. Rewritten ({graph['what']}), a run would take {after} instead of "
            f"{before}: {graph['why']}"
        )
    if graph["used"]:
        doubt = f", since {graph['doubt']}" if graph["doubt"] else ""
        return (
            f"Its graph is served rewritten ({graph['what']}): a run takes {after} instead of {before}; answers differ "
            f"{off}{doubt}"
        )
    return (
        f"Its graph is served as exported. Rewritten ({graph['what']}), a run would take {after} instead of {before}, "
        f"but {graph['why']}; answers would differ {off}"
    )


def _print_times(what: str, points: Sequence[Json]) -> None:
    most = max((point["run_us"] for point in points), default=0.0)
    rows: list[list[Any]] = []
    for point in points:
        total = sum(point[f"{step}_us"] for step in _STEPS)
        each = 1e6 / total * point.get("rows", 1) if total else 0.0
        times = [_shown(point[f"{step}_us"]) for step in _STEPS]
        rows.append([point[what], *times, f"{each:,.0f}", plot.bar(point["run_us"], most)])
    table.print_table([what, *_STEPS, "samples/s", "run"], rows, empty=f"No {what} were measured.")
    table.say("")


def _print_points(what: str, key: str, heading: str, points: Sequence[Json]) -> None:
    most = max((point[key] for point in points), default=0.0)
    rows = [
        [point[what], _shown(point[key]) if key == "run_us" else f"{point[key]:,.0f}", plot.bar(point[key], most)]
        for point in points
    ]
    table.print_table([what, heading, ""], rows, empty=f"No {what} were measured.")
    table.say("")


def _print_batches(batches: Json | None) -> None:
    if batches is None:
        return
    rates = [_rate(point) for point in batches["points"]]
    sized = any(point["tokens"] for point in batches["points"])
    rows = [
        [
            point["rows"], *([point["tokens"]] if sized else []),
            "no memory" if point["run_us"] is None else _shown(point["run_us"]),
            "-" if rate is None else f"{rate:,.0f}", plot.bar(rate or 0.0, max(one or 0.0 for one in rates)),
        ]
        for point, rate in zip(batches["points"], rates, strict=True)
    ]  # fmt: skip
    told = [f" {word} {batches[what]}" for word, what in (("on", "device"), ("in", "dtype")) if batches[what] != "auto"]
    table.note(f"Batches{',' * bool(told)}{''.join(told)}, as measured when it was first deployed so")
    if batches["max_difference"] is not None:
        off, cosine = batches["max_difference"], batches["min_cosine"]
        table.note(f"Answers differ from the CPU's in fp32 by at most {off:g}; cosine at least {cosine:.5f}")
    headings = ["rows", *(["tokens"] if sized else []), "run", "samples/s", ""]
    table.print_table(headings, rows, empty="No batches were measured.")
    table.say("")


def _rate(point: Json) -> float | None:
    """Samples a second."""
    return None if point["run_us"] is None else 1e6 * point["rows"] / max(point["run_us"], 1e-3)


def _shown(microseconds: float) -> str:
    """
    >>> _shown(3.92), _shown(40708.5), _shown(1303708.8)
    ('3.92 µs', '40.7 ms', '1.3 s')
    """
    units = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))
    size, unit = next((one for one in units if microseconds >= one[0]), units[-1])
    return f"{microseconds / size:.3g} {unit}"


def _panels(found: Json) -> list[plot.Panel]:
    measured = _panels_of_curves(found["result"]["curves"]) if found["result"] else []
    return measured + (_panels_of_batches(found["batches"]) if found["batches"] else [])


def _panels_of_batches(batches: Json) -> list[plot.Panel]:
    """A line for each length, over the sizes that all of them were measured with."""
    lines: dict[str, dict[int, float]] = {}
    for point in batches["points"]:
        if (rate := _rate(point)) is not None:
            name = "samples/s" if point["tokens"] is None else f"{point['tokens']} tokens"
            lines.setdefault(name, {})[point["rows"]] = rate
    places = sorted(set.intersection(*(set(line) for line in lines.values()))) if lines else []
    return [
        plot.Panel(
            "Samples/s by rows of a batch", "rows", tuple(places),
            {name: tuple(line[rows] for rows in places) for name, line in lines.items()},
        )
    ]  # fmt: skip


def _panels_of_curves(curves: Json) -> list[plot.Panel]:
    panels = []
    for what, key in (("rows", "rows"), ("tokens", "lengths")):
        points = curves[key]
        if points:
            lines = {step: tuple(point[f"{step}_us"] / 1000 for point in points) for step in _STEPS}
            places = tuple(point[what] for point in points)
            panels.append(plot.Panel(f"Milliseconds by {what}", what, places, lines))
    for what, key, scale, name in (
        ("engines", "requests_per_second", 1.0, "requests/s"), ("threads", "run_us", 1e-3, "run, ms")
    ):  # fmt: skip
        places = tuple(point[what] for point in curves[what])
        line = tuple(point[key] * scale for point in curves[what])
        panels.append(plot.Panel(f"{name} by {what}", what, places, {name: line}))
    return panels
