"""`seaway serve`. Imported only when it is the command, as reading the settings' model takes a while."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from seaway.cli import settings, table
from seaway.cli.command import USAGE, exit_codes
from seaway.config import Settings, load_settings
from seaway.errors import ConfigurationError

PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="Print an example settings file with every default, and end.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Log as JSON lines: short for --log-format json.")]


def command() -> Callable[..., None]:
    """The function behind `serve`, with a keyword for each setting."""

    def serve(**arguments: Any) -> None:
        if arguments.pop("print_config"):
            sys.stdout.write(settings.example_toml())
            return
        if arguments.pop("as_json"):
            arguments["log_format"] = "json"
        with exit_codes():
            raise typer.Exit(_serve(_settings(arguments)))

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter("print_config", keyword, default=False, annotation=PrintConfigOption),
        inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
    ]
    serve.__signature__ = inspect.Signature([*settings.flags(), *own])  # type: ignore[attr-defined]
    return serve


def _settings(arguments: dict[str, Any]) -> Settings:
    try:
        return load_settings(**arguments)
    except ConfigurationError as error:
        table.complain(str(error))
        raise typer.Exit(USAGE) from error


def _serve(chosen: Settings) -> int:
    # The launcher brings asyncio and the log library, which `--print-config` doesn't need.
    from seaway import launcher

    return launcher.run(chosen)
