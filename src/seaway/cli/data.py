"""Commands about where models come from: datasets and experiments."""

from __future__ import annotations

from typing import Annotated

import typer

from seaway.cli import table, values
from seaway.cli.command import Call, asks_server
from seaway.cli.models import SourcePath
from seaway.cli.values import checked_name
from seaway.types import Json

Dataset = Annotated[str, typer.Argument(metavar="NAME", callback=checked_name, help="Name of the dataset.")]


@asks_server
def show_datasets(
    call: Call,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", callback=checked_name, help="Show the versions of this dataset.")
    ] = None,
) -> None:
    """The registered datasets, or the versions of one."""
    if name is None:
        call.show(call.client.list_datasets(), _print_datasets)
    else:
        call.show(call.client.get_dataset(name), _print_dataset_versions)


def _print_datasets(found: list[Json]) -> None:
    table.print_table(
        ["dataset", "newest version", "description"],
        [[item["name"], item["newest"], item["description"] or None] for item in found],
        empty="No dataset is registered; `seaway datasets add NAME PATH` does it.",
    )


def _print_dataset_versions(dataset: Json) -> None:
    table.print_table(
        ["version", "rows", "files", "size", "digest", "registered", "by"],
        [
            [
                item["version"],
                item["n_rows"],
                len(item["files"]),
                table.size(item["n_bytes"]),
                item["digest"][:12],
                table.moment(item["created_at"]),
                item["created_by"],
            ]
            for item in dataset["versions"]
        ],
        empty="The dataset has no version.",
        less=["by", "registered", "digest"],
    )


@asks_server
def add_dataset(
    call: Call,
    name: Dataset,
    path: SourcePath,
    source: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="Where the bytes came from, as a JSON object.")
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What is new in this version.")] = "",
) -> None:
    """Upload data as a new version of a dataset; the same bytes stay the same version."""
    origin = values.read_object(source, "--source")
    with table.upload_progress(f"Uploading {path.name}") as progress:
        uploaded = call.client.add_dataset_version(
            name, path, description=description, source=origin, progress=progress
        )
    told = "registered" if uploaded.new else "already there: the same bytes"
    call.show(uploaded.version, lambda found: table.say(f"{name} version {found['version']} is {told}."))


@asks_server
def show_experiments(
    call: Call,
    experiment_id: Annotated[str | None, typer.Argument(metavar="ID", help="Show this experiment whole.")] = None,
) -> None:
    """The experiments, or one with the versions it gave."""
    if experiment_id is None:
        call.show(call.client.list_experiments(), _print_experiments)
    else:
        call.show(call.client.get_experiment(experiment_id), _print_experiment)


def _print_experiments(found: list[Json]) -> None:
    rows = [
        [
            item["experiment_id"],
            item["model"],
            f"{item['dataset']} {item['dataset_version']}",
            ", ".join(str(trained["version"]) for trained in item["trained"]) or None,
            table.moment(item["created_at"]),
        ]
        for item in found
    ]
    table.print_table(
        ["experiment", "model", "dataset", "gave versions", "created"],
        rows,
        empty="There is no experiment; `seaway experiments create` makes one.",
        less=["created"],
        ids=["experiment"],
    )


def _print_experiment(experiment: Json) -> None:
    facts = {
        "model": experiment["model"],
        "dataset": f"{experiment['dataset']} version {experiment['dataset_version']}",
        "dataset digest": experiment["dataset_digest"][:12],
        **experiment["spec"],
        "created": table.moment(experiment["created_at"]),
    }
    rows = [[name, _fact(value)] for name, value in facts.items()]
    table.print_table(["experiment", experiment["experiment_id"]], rows, empty="")
    table.print_table(
        ["version", "metrics"],
        [[trained["version"], _fact(trained["metrics"])] for trained in experiment["trained"]],
        empty="It gave no version yet; register one with `seaway register MODEL PATH --experiment ID`.",
    )


def _fact(value: object) -> str | None:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or None
    return None if value is None else str(value)


@asks_server
def create_experiment(  # noqa: PLR0913 - a command's flags are its parameters
    call: Call,
    dataset: Annotated[str, typer.Option(metavar="NAME", callback=checked_name, help="The dataset it trains on.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", callback=checked_name, help="The model it is to give versions of.")
    ],
    architecture: Annotated[str, typer.Option(metavar="TEXT", help="What is trained.")],
    dataset_version: Annotated[
        int | None, typer.Option(metavar="VERSION", min=1, help="Which version of that; without it, the newest.")
    ] = None,
    hyper_parameters: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="As a JSON object.")] = None,
    validation_strategy: Annotated[str, typer.Option(metavar="TEXT", help="How it is measured.")] = "",
    code_commit: Annotated[str, typer.Option(metavar="COMMIT", help="Commit of the training code.")] = "",
) -> None:
    """Join a dataset version with what is trained on it. The same content is the same experiment."""
    experiment = call.client.create_experiment(
        {
            "dataset": dataset,
            "dataset_version": dataset_version,
            "model": model,
            "architecture": architecture,
            "hyper_parameters": values.read_object(hyper_parameters, "--hyper-parameters") or {},
            "validation_strategy": validation_strategy,
            "code_commit": code_commit,
        }
    )
    call.show(experiment, lambda found: table.say(f"Experiment {found['experiment_id']}"))
