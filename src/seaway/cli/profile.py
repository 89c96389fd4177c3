"""`seaway profile`: what a version costs, measured on the server and drawn here."""

from __future__ import annotations

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
    if svg is not None and not failed and found["result"]:
        svg.write_text(plot.svg(_title(found), _panels(found["result"]["curves"])), encoding="utf-8")
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
    return f"{found['model']} version {found['version']} on {found['result']['machine']}"


def _print(found: Json) -> None:
    if found["result"] is None:
        table.say("It is measured for the first time; ask again in a moment.")
        return
    curves = found["result"]["curves"]
    table.note(f"{_title(found)}, {table.moment(found['result']['created_at'])}")
    memory, peak = table.size(curves["memory_bytes"]), table.size(curves["peak_memory_bytes"])
    table.say(f"loads in {curves['load_seconds']:g} s; takes {memory}, at most {peak}\n")
    _print_times("rows", curves["rows"])
    if curves["lengths"]:
        _print_times("tokens", curves["lengths"])
    _print_points("engines", "requests_per_second", "requests/s", curves["engines"])
    _print_points("threads", "run_us", "run", curves["threads"])


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


def _shown(microseconds: float) -> str:
    """
    >>> _shown(3.92), _shown(40708.5), _shown(1303708.8)
    ('3.92 µs', '40.7 ms', '1.3 s')
    """
    units = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))
    size, unit = next((one for one in units if microseconds >= one[0]), units[-1])
    return f"{microseconds / size:.3g} {unit}"


def _panels(curves: Json) -> list[plot.Panel]:
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
