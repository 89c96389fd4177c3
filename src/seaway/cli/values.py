"""Values on the command line: what is checked before a server is asked, and JSON.

JSON is written out, in a file (`@file`), or on standard input (`-`).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from seaway.types import NAME, Json

_MAX_PATH = 250


def checked_name(name: str | None) -> str | None:
    """For arguments that go into an address. Raises BadParameter (exit code 2) with the rule; None stays None."""
    if name is not None and not NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is no name: 1 to 128 characters out of letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit."
        )
    return name


def checked_device(device: str | None) -> str | None:
    """For --device. Raises BadParameter (exit code 2) with what is possible; None stays None."""
    if device is None:
        return None
    from seaway.config import DEVICE, DEVICES  # not for --help, since it takes long to import

    if not re.fullmatch(DEVICE, device):
        raise typer.BadParameter(f"must be {DEVICES}, not {device!r}.")
    return device


def positive(number: float | None) -> float | None:
    """For durations that can't be nothing. Raises BadParameter (exit code 2); None stays None."""
    if number is not None and number <= 0:
        raise typer.BadParameter(f"must be more than 0, not {number:g}.")
    return number


def read_file(name: str) -> bytes:
    """The content of a file. Raises BadParameter (exit code 2) naming it."""
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{name} can't be read: {error.strerror}.") from error


def read_text(text: str) -> str:
    """What `text` stands for: itself, the content of a file after `@`, or standard input for `-`."""
    if text == "-":
        return sys.stdin.read()
    if text.startswith("@"):
        try:
            return read_file(text[1:]).decode()
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"{text[1:]} is not a text file.") from error
    return text


def read_json(text: str, what: str, *, otherwise: str = "") -> Any:
    """The JSON value that `text` stands for. Raises BadParameter (exit code 2) naming `what`, and `otherwise`."""
    content = read_text(text)
    try:
        return json.loads(content)
    except ValueError as error:
        is_file = len(text) < _MAX_PATH and Path(text).is_file()
        hint = f" For the file write @{text}." if is_file else f" {otherwise}".rstrip()
        raise typer.BadParameter(f"{what} must be JSON, but: {error}.{hint}") from error


def read_object(text: str | None, what: str) -> Json | None:
    """The JSON object that `text` stands for; None stays None."""
    if text is None:
        return None
    value = read_json(text, what)
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{what} must be a JSON object, such as {{"accuracy": 0.9}}.')
    return value
