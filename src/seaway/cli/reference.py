"""docs/reference/cli.md, from the commands themselves: ``python -m seaway.cli.reference > docs/reference/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from seaway.cli.app import app

_INTRODUCTION = """\
# The command line

<!-- Written by `python -m seaway.cli.reference`; change the commands and run it. -->

Every command but `serve` asks a running server over HTTP, at `SEAWAY_URL` (default `http://127.0.0.1:8080`) with the
API key in `SEAWAY_API_KEY`. These options belong to each of them, before or after its name:

| option | what it does |
| --- | --- |
| `--json` | Print the answer as JSON on standard output, and nothing else there. |
| `--url URL` | The server, instead of `SEAWAY_URL`. |
| `--api-key KEY` | Its key, instead of `SEAWAY_API_KEY`, which other users of the machine can't see. |

Answers go to standard output; errors, progress and remarks to standard error, plain where that is no terminal.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | the server refused, or what was asked for failed |
| 2 | wrong usage |
| 3 | no server reached |
| 130 | Ctrl-C |
"""
_COMMON = {"as_json", "url", "api_key", "help"}


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Every command that can be run: its name with those of its groups, the command, and a context for its options."""
    root = get_command(app)
    yield from _below("seaway", root, typer.Context(root, info_name="seaway"))


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(_section(name, command, context) for name, command, context in commands())])


def _below(name: str, command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command, context
        return
    for child_name, child in children.items():
        child_context = typer.Context(child, info_name=child_name, parent=context)
        yield from _below(f"{name} {child_name}", child, child_context)


def _section(name: str, command: Any, context: Any) -> str:
    arguments, options = [], []
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            arguments.append(parameter)
        elif name == "seaway serve" or parameter.name not in _COMMON:
            options.append(parameter)
    usage = [name, *(_shown_argument(argument) for argument in arguments)]
    lines = [f"## {name}", "", f"`{' '.join(usage)}`", "", command.help, ""]
    rows = [(argument.metavar, argument.help) for argument in arguments]
    rows += [(_shown_option(option), option.help) for option in options if option.name != "help"]
    if rows:
        lines += ["| | |", "| --- | --- |"]
        lines += [f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows]
        lines.append("")
    return "\n".join(lines)


def _shown_argument(argument: Any) -> str:
    return str(argument.metavar) if argument.required else f"[{argument.metavar}]"


def _shown_option(option: Any) -> str:
    names = " / ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar}"
    return f"{names}{value}" + (" (required)" if option.required else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
