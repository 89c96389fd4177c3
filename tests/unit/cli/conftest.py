"""The command line against a scripted server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from seaway.cli.app import app
from support.scripted import ScriptedServer

Seaway = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def seaway(server: ScriptedServer) -> Seaway:
    """Runs a command line, as if typed into a pipe: `seaway("deploy", "churn")`."""

    def run(*arguments: str, stdin: str | None = None, url: str = server.url) -> Result:
        clean = {name: None for name in os.environ if name.startswith("SEAWAY_")}
        environment = clean | {"SEAWAY_URL": url}
        return CliRunner(env=environment).invoke(app, arguments, input=stdin, prog_name="seaway")

    return run
