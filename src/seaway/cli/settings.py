"""The flags of `seaway serve` and the example settings file, both derived from `seaway.config.Settings`.

A new field there is a new flag and a new entry here, without another line.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from seaway.config import Settings

_INTRODUCTION = """\
# Settings of `seaway serve`. Copy to seaway.toml in the directory where it starts, or name the file in SEAWAY_CONFIG.
# Every setting is also a flag (--max-queue-size) and a variable (SEAWAY_MAX_QUEUE_SIZE). A flag wins over the variable,
# the variable over this file, and this file over the default, which is what stands here.
"""
_PLACEHOLDERS: dict[Any, str] = {int: "0", float: "0.0", str: '"..."', Path: '"..."', SecretStr: '"..."'}
"""What stands behind a setting that has no default; its line is a comment."""


def flags() -> list[inspect.Parameter]:
    """One keyword for each setting, annotated as typer reads options; the default None means: not given."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in Settings.model_fields.items()
    ]


def flag(name: str) -> str:
    """The flag of a setting.

    >>> flag("max_queue_size")
    '--max-queue-size'
    """
    return f"--{name.replace('_', '-')}"


def example_toml() -> str:
    """A settings file with every setting, its meaning, its limits and its default."""
    entries = (_toml_entry(name, field) for name, field in Settings.model_fields.items())
    return "\n".join([_INTRODUCTION, *entries])


def _option(name: str, field: FieldInfo) -> Any:
    kind = _value_type(field)
    names = [f"{flag(name)}/--no-{flag(name)[2:]}"] if kind is bool else [flag(name)]
    default = [] if field.default is None else [f"default {_shown(field.default)}"]
    help_text = f"{field.description}{_bracketed([*default, *_limits(field)])}"
    option = typer.Option(*names, help=help_text, metavar=_metavar(kind))
    annotation = kind if get_origin(kind) is Literal or kind in {bool, int, float, Path} else str
    return Annotated[annotation | None, option]


def _value_type(field: FieldInfo) -> Any:
    """The type of a setting without its None."""
    if get_origin(field.annotation) in {Union, UnionType}:
        return next(kind for kind in get_args(field.annotation) if kind is not type(None))
    return field.annotation


def _metavar(kind: Any) -> str | None:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    names = {int: "NUMBER", float: "NUMBER", Path: "PATH", SecretStr: "KEY", str: "TEXT"}
    return names.get(kind)


def _limits(field: FieldInfo) -> list[str]:
    """The limits of a setting in words."""
    facts = []
    for constraint in field.metadata:
        for name, word in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            limit = getattr(constraint, name, None)
            if limit is not None:
                facts.append(f"{word} {limit}")
    return facts


def _bracketed(facts: list[str]) -> str:
    return f" ({', '.join(facts)})" if facts else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _toml_entry(name: str, field: FieldInfo) -> str:
    kind = _value_type(field)
    choices = [" or ".join(get_args(kind))] if get_origin(kind) is Literal else []
    comment = f"# {field.description}{_bracketed([*choices, *_limits(field)])}"
    if field.default is None:
        return f"{comment}\n# {name} = {_PLACEHOLDERS[kind]}\n"
    value = str(field.default) if isinstance(field.default, Path) else field.default
    # JSON writes text, numbers and booleans exactly as TOML does.
    return f"{comment}\n{name} = {json.dumps(value)}\n"
