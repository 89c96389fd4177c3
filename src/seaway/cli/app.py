"""All commands in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from seaway import __version__
from seaway.cli import data, deployments, models, predict, profile
from seaway.cli.command import Common, JsonOption, KeyOption, UrlOption
from seaway.cli.deferred import DeferredCommand, RootGroup, ShowGroup

app = typer.Typer(
    name="seaway",
    cls=RootGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help has room for long flags, and needs no terminal to be read
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seaway {__version__}")
        raise typer.Exit


@app.callback()
def seaway(
    context: typer.Context,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Takes a trained model from a file to trusted production traffic."""
    context.obj = Common(as_json, url, api_key)


@app.command("serve", cls=DeferredCommand)
def serve() -> Callable[..., None]:
    """Start the server on this machine, until Ctrl-C."""
    from seaway.cli.serve import command

    return command()


app.command("deploy")(deployments.deploy)
app.command("undeploy")(deployments.undeploy)
app.command("rollback")(deployments.rollback)
app.command("predict")(predict.predict)
app.command("status")(deployments.status)
app.command("logs")(deployments.logs)

app.command("register")(models.register)
app.command("models")(models.models)
app.command("alias")(models.alias)
app.command("profile")(profile.profile)

datasets = typer.Typer(
    cls=ShowGroup,
    subcommand_metavar="[NAME | COMMAND [ARGS]...]",
    help="Datasets and their versions: `datasets`, `datasets NAME`, `datasets add`.",
)
datasets.command("show")(data.show_datasets)
datasets.command("add")(data.add_dataset)
app.add_typer(datasets, name="datasets")

experiments = typer.Typer(
    cls=ShowGroup,
    subcommand_metavar="[ID | COMMAND [ARGS]...]",
    help="Experiments: `experiments`, `experiments ID`, `experiments create`.",
)
experiments.command("show")(data.show_experiments)
experiments.command("create")(data.create_experiment)
app.add_typer(experiments, name="experiments")


def main() -> None:
    """The console script `seaway`."""
    app(prog_name="seaway")
