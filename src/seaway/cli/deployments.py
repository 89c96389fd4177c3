"""Commands that change or show what serves: deploy, undeploy, rollback, status, logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from seaway.cli import table
from seaway.cli.command import FAILED, Call, asks_server
from seaway.cli.values import checked_device, checked_name, positive
from seaway.types import Json, ServingSettings

_SHORT_REASON = 30

Model = Annotated[str, typer.Argument(metavar="MODEL", callback=checked_name, help="Name of the model.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the deployment.")]
Wait = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Wait so long until it answers; 0 doesn't wait.")]


@asks_server
def deploy(  # noqa: PLR0913 - a command's flags are its parameters
    call: Call,
    model: Model,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION|ALIAS", help="Which version; without it, the newest.")
    ] = None,
    engines: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, max=1024, help="Engine threads, one core each.")
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="NUMBER", min=1, max=256, help="Worker processes.")] = None,
    max_queue_size: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", min=1, max=1_000_000, help="Requests that may wait in one worker; more get 429."
        ),
    ] = None,
    timeout_seconds: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", max=3600, callback=positive, help="A request's deadline when it brings none."),
    ] = None,
    placement: Annotated[
        Literal["auto", "inline", "worker"] | None,
        typer.Option(
            metavar="auto|inline|worker",
            help="Where it runs: in the gateways (inline), in workers, or as calibration finds it best.",
        ),
    ] = None,
    joint_runs: Annotated[
        Literal["auto", "never"] | None,
        typer.Option(
            metavar="auto|never",
            help="Of the lane cpu: requests that wait share runs where that pays (auto), or never do.",
        ),
    ] = None,
    lane: Annotated[
        Literal["auto", "cpu", "batch"] | None,
        typer.Option(
            metavar="auto|cpu|batch",
            help="An engine on each core (cpu), many samples together (batch), or batch on a GPU (auto).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", callback=checked_device, help="Of the batch lane: auto, cpu, cuda or cuda:N."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option(metavar="auto|fp32|bf16|fp16", help="What the batch lane computes in."),
    ] = None,
    max_batch_rows: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, max=65_536, help="Samples of one batch.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=1, max=100_000_000, help="Samples of a batch times its longest length."),
    ] = None,
    preferred_batch_rows: Annotated[
        str | None,
        typer.Option(metavar="NUMBER,...", help="Sizes that a batch leaves with rather than with more samples: 8,16."),
    ] = None,
    max_queue_delay_seconds: Annotated[
        float | None, typer.Option(metavar="NUMBER", min=0, max=60, help="How long a free device waits for company.")
    ] = None,
    latency_target_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER", max=3600, callback=positive, help="Batches are kept so small that they take half of it."
        ),
    ] = None,
    length_bucketing: Annotated[bool | None, typer.Option(help="Whether texts of like length ride together.")] = None,
    reason: Reason = "",
    wait: Wait = 120.0,
) -> None:
    """Serve a version, and wait until it answers. What served before goes on until then."""
    settings = ServingSettings(
        engines, processes, max_queue_size, timeout_seconds, placement, joint_runs, lane, device, dtype,
        max_batch_rows, max_batch_tokens, _sizes(preferred_batch_rows), max_queue_delay_seconds,
        latency_target_seconds, length_bucketing,
    )  # fmt: skip
    wanted = int(version) if version is not None and version.isascii() and version.isdigit() else version
    _settle(call, call.client.deploy(model, wanted, settings=settings, reason=reason), wait)


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """
    >>> _sizes("8, 16"), _sizes(None)
    ((8, 16), None)
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(f"--preferred-batch-rows takes numbers with commas between them, not {text!r}.")
    return tuple(map(int, parts))


@asks_server
def rollback(call: Call, model: Model, reason: Reason = "", wait: Wait = 120.0) -> None:
    """Serve again what was ready before."""
    _settle(call, call.client.rollback(model, reason=reason), wait)


@asks_server
def undeploy(call: Call, model: Model, reason: Reason = "") -> None:
    """Stop serving a model. Its versions stay registered."""
    answer = call.client.undeploy(model, reason=reason)
    call.show(answer, lambda _: table.say(f"{model} is no longer served."))


def _settle(call: Call, revision: Json, wait: float) -> None:
    """Wait for the revision, tell what became of it, and fail if it isn't what serves."""
    from seaway.client import wait_until_settled

    model = revision["model"]
    versions = ", ".join(f"version {arm['version']}" for arm in revision["arms"])
    with table.spinner(f"{model}: loading {versions}"):
        settled = wait_until_settled(call.client, revision, timeout_seconds=wait)
    state = settled["state"]
    call.show(settled, lambda _: None)
    if state == "ready":
        if not call.as_json:
            table.say(f"{model} {versions} is ready: {call.client.url}/predict/{model}")
        return
    if state == "pending" and wait == 0:
        if not call.as_json:
            table.say(f"{model} {versions} is on its way; `seaway status` tells when it is ready.")
        return
    reason = settled["state_reason"].rstrip(".") or "the server gave no reason"
    told = f"is not ready after {wait:g} s" if state == "pending" else f"{state}: {reason}"
    table.complain(f"{model} {versions} {told}. {_what_serves(call, model)}")
    raise typer.Exit(FAILED)


def _what_serves(call: Call, model: str) -> str:
    live = call.client.status()["models"].get(model, {})
    if live.get("version") is None:
        return f"Nothing serves {model} now."
    return f"Version {live['version']} keeps serving."


@asks_server
def status(call: Call) -> None:
    """What is served now, by which processes."""
    call.show(call.client.status(), _print_status)


def _print_status(live: Json) -> None:
    table.print_table(
        ["model", "state", "version", "placement", "engines", "worker pids", "answered", "memory", "reason"],
        [_model_row(name, model) for name, model in sorted(live["models"].items())],
        empty="No model is deployed; register one with `seaway register MODEL PATH`, then `seaway deploy MODEL`.",
        less=["memory", "worker pids", "engines", "placement", "answered"],
    )
    for name, model in sorted(live["models"].items()):
        if len(model["reason"]) > _SHORT_REASON:
            table.note(f"{name}: {model['reason']}")
        if model["choice"]:
            table.note(f"{name}: {model['choice']['why']}")
            if limits := _limits(model["workers"]):
                table.note(f"{name}: {limits}")
    gateways = live["gateways"]
    pids = ", ".join(str(gateway["pid"]) for gateway in gateways)
    word = "gateway" if len(gateways) == 1 else "gateways"
    table.note(f"{len(gateways)} {word} (pid {pids})" if gateways else "No gateway runs.")


def _limits(workers: Sequence[Json]) -> str:
    """What batches may have now, where there are any."""
    limits = next((worker["batches"] for worker in workers if worker.get("batches")), None)
    if limits is None:
        return _runs(workers)
    tokens = f" and {table.counted(limits['max_tokens'], 'token')} with padding" if limits["max_tokens"] else ""
    seconds, target = limits["max_queue_delay_seconds"], limits.get("latency_target_seconds")
    more = [
        f", waiting up to {seconds * 1e3:g} ms for company" if seconds else "",
        "" if limits.get("length_bucketing", True) else ", lengths mixed",
        f", preferably {' or '.join(map(str, sizes))}" if (sizes := limits.get("preferred_rows")) else "",
        f", kept below half of {target * 1e3:g} ms" if target else "",
    ]
    missed = " Not even a single sample is fast enough for that." if limits.get("target_missed") else ""
    most = table.counted(limits["max_rows"], "sample")
    return f"Batches of up to {most}{tokens}{''.join(more)}.{missed}{_batched(workers)}"


def _runs(workers: Sequence[Json]) -> str:
    """What runs were like that requests may share, since the processes started."""
    found = [worker["batched"] for worker in workers if worker.get("batched")]
    runs, rows = sum(one["batches"] for one in found), sum(one["rows"] for one in found)
    made = table.counted(runs, "run")
    return f"So far its workers made {made}, of {rows / runs:.1f} samples on average." if runs else ""


def _batched(workers: Sequence[Json]) -> str:
    """What batches were like since the process started."""
    found = next((worker["batched"] for worker in workers if worker.get("batched")), None)
    if found is None or not found["batches"]:
        return ""
    mean = found["rows"] / found["batches"]
    return f" So far {found['batches']:,.0f}, of {mean:.1f} samples on average; {found['padding']:.0%} was padding."


def _model_row(name: str, model: Json) -> list[Any]:
    """A line of the table; a long reason stands below it."""
    workers = model["workers"]
    memory = sum(worker.get("memory_bytes") or 0 for worker in workers)
    return [
        name,
        model["state"],
        model["version"],
        (model["choice"] or {}).get("placement"),
        sum(worker["engines"] for worker in workers) or None,
        " ".join(str(worker["pid"] or "starting") for worker in workers) or None,
        model.get("answered"),
        table.size(memory) if memory else None,
        "see below" if len(model["reason"]) > _SHORT_REASON else model["reason"] or None,
    ]


@asks_server
def logs(
    call: Call,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", callback=checked_name, help="Only lines about this model.")
    ] = None,
    lines: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="How many of the newest lines.")] = 100,
) -> None:
    """The newest log lines of all processes."""
    found = call.client.logs(model, lines=lines)
    nothing = f"No line of the log is about {model}." if model else "Nothing was logged yet."
    shown = [_readable(line) for line in found] if table.is_terminal() else found
    call.show([_event(line) for line in found], lambda _: table.say("\n".join(shown)) if shown else table.note(nothing))


def _readable(line: str) -> str:
    """
    >>> _readable('{"took": "4 \\\\u00b5s"}')
    '{"took": "4 µs"}'
    """
    event = _event(line)
    return line if event is line else json.dumps(event, ensure_ascii=False)


def _event(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line  # the oldest may be cut
