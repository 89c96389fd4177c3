"""Commands about registered models: register, models, alias."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seaway.cli import table, values
from seaway.cli.command import Call, asks_server
from seaway.cli.values import checked_name
from seaway.types import Json

Model = Annotated[str, typer.Argument(metavar="MODEL", callback=checked_name, help="Name of the model.")]
SourcePath = Annotated[
    Path, typer.Argument(metavar="PATH", exists=True, help="A file, a directory, or an archive (.zip, .tar, .tar.gz).")
]


@asks_server
def register(
    call: Call,
    model: Model,
    path: SourcePath,
    experiment: Annotated[
        str | None, typer.Option(metavar="ID", help="The experiment that this version came from.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How well it did, as a JSON object; needs --experiment.")
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What is new in this version.")] = "",
) -> None:
    """Upload a model package as a new version. The server opens and tries it before it keeps it."""
    measured = values.read_object(metrics, "--metrics")
    with table.upload_progress(f"Uploading {path.name}") as progress:
        uploaded = call.client.register(
            model, path, experiment_id=experiment, metrics=measured, description=description, progress=progress
        )
    told = "registered" if uploaded.new else "already there: the same bytes"
    call.show(uploaded.version, lambda found: _print_registered(model, found, told))


def _print_registered(model: str, found: Json, told: str) -> None:
    version = found["version"]
    table.say(f"{model} version {version} is {told}. Serve it: seaway deploy {model} {version}")
    for output in found["signature"].get("left_out", ()):  # of an older server: it doesn't say
        table.say(f"Left out: {output['name']}, which is {output['why']}.")


@asks_server
def models(
    call: Call,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", callback=checked_name, help="Show the versions of this model.")
    ] = None,
) -> None:
    """The registered models, or the versions of one."""
    if model is None:
        call.show(call.client.list_models(), _print_models)
    else:
        call.show(call.client.get_model(model), _print_versions)


def _print_models(found: list[Json]) -> None:
    rows = [
        [item["name"], item["newest"], item["n_versions"], _aliases(item["aliases"]), item["description"] or None]
        for item in found
    ]
    table.print_table(
        ["model", "newest version", "versions", "aliases", "description"],
        rows,
        empty="No model is registered; `seaway register MODEL PATH` does it.",
        less=["versions"],
    )


def _aliases(aliases: dict[str, int]) -> str | None:
    return ", ".join(f"{name} -> {version}" for name, version in sorted(aliases.items())) or None


def _print_versions(model: Json) -> None:
    table.print_table(
        ["version", "runtime", "inputs", "outputs", "size", "experiment", "registered", "by"],
        [
            [
                item["version"],
                item["runtime"],
                tensors(item["signature"]["inputs"]),
                tensors(item["signature"]["outputs"]),
                table.size(item["n_bytes"]),
                item["experiment_id"],
                table.moment(item["created_at"]),
                item["created_by"],
            ]
            for item in model["versions"]
        ],
        empty="The model has no version.",
        less=["by", "size", "runtime", "experiment", "registered"],
        ids=["experiment"],
    )


def tensors(specs: list[Json]) -> str:
    """Tensors of a signature in short, a variable dimension as `*`."""
    return ", ".join(f"{spec['name']} {spec['datatype']}{_shape(spec['shape'])}" for spec in specs)


def _shape(sizes: list[int]) -> str:
    return f"[{','.join('*' if size == -1 else str(size) for size in sizes)}]"


@asks_server
def alias(  # noqa: PLR0913 - a command's flags are its parameters
    call: Call,
    model: Model,
    name: Annotated[
        str | None, typer.Argument(metavar="ALIAS", callback=checked_name, help="Show only this alias.")
    ] = None,
    version: Annotated[int | None, typer.Argument(metavar="VERSION", min=1, help="Move the alias here.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show where the alias pointed, and since when.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it moves; kept in its history.")] = "",
) -> None:
    """Names for versions: list them, show one, move one, remove one."""
    if (delete or history) and name is None:
        raise typer.BadParameter(f"Say which alias: seaway alias {model} ALIAS --{'delete' if delete else 'history'}")
    if (delete, history, version is not None).count(True) > 1:
        raise typer.BadParameter("VERSION, --delete and --history exclude each other.")
    if name is None:
        call.show(call.client.list_aliases(model), _print_aliases)
    elif delete:
        call.show(call.client.delete_alias(model, name), lambda _: table.say(f"{model} has no alias {name} any more."))
    elif history:
        call.show(call.client.alias_history(model, name), _print_history)
    elif version is not None:
        moved = call.client.set_alias(model, name, version, reason=reason)
        call.show(moved, lambda _: table.say(f"{model} {name} is version {version} now."))
    else:
        found = call.client.get_alias(model, name)
        call.show(found, lambda _: table.say(f"{model} {name} is version {found['version']}."))


def _print_aliases(found: list[Json]) -> None:
    rows = [[item["name"], item["version"], table.moment(item["updated_at"]), item["updated_by"]] for item in found]
    table.print_table(["alias", "version", "since", "by"], rows, empty="The model has no alias.")


def _print_history(events: list[Json]) -> None:
    rows = [[table.moment(e["at"]), e["from_version"], e["to_version"], e["by"], e["reason"] or None] for e in events]
    table.print_table(["at", "from", "to", "by", "reason"], rows, empty="The alias never pointed anywhere.")
