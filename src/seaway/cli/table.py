"""What people and programs see: answers on standard output, everything else on standard error.

Colour and moving things appear only on a terminal. Rich is imported when something is drawn, so that `--json` and
`--help` don't wait for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from seaway.client import Progress

_PIPE_COLUMNS = 1000  # what reads a pipe has no edge to wrap at


def printable(value: object) -> str:
    """Text from elsewhere without what a terminal would obey.

    >>> printable("late \\x1b[2J")
    'late \\\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in str(value))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The whole machine-readable output of a command."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A sentence that is the command's answer."""
    _console(sys.stdout).print(printable(text))


def note(text: str) -> None:
    """Something beside the answer, such as how long it took."""
    _console(sys.stderr).print(printable(text), style="dim")


def complain(text: str) -> None:
    """Why the command failed."""
    _console(sys.stderr).print(f"Error: {printable(text)}", style="red")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Rows under their headings, or the sentence `empty` when there are none. None is shown as a dash."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # a name that is cut can't be copied
    for row in rows:
        table.add_row(*("-" if cell is None else printable(cell) for cell in row))
    if not table.row_count:
        say(empty)
        return
    # Soft wrapping is for sentences; a table folds its cells.
    _console(sys.stdout).print(table, soft_wrap=False)


def moment(text: str | None) -> str | None:
    """A timestamp of the interface, to the second."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z") if text else None


def size(n_bytes: int) -> str:
    """A number of bytes as people say it.

    >>> size(1_500_000)
    '1.5 MB'
    """
    from rich.filesize import decimal

    return decimal(n_bytes)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Something that moves on a terminal while the server works."""
    if not sys.stderr.isatty():
        yield
        return
    with _console(sys.stderr).status(printable(text)):
        yield


@contextmanager
def upload_progress(text: str) -> Iterator[Progress | None]:
    """A bar on a terminal: call what it gives with the bytes sent so far and their total. None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(printable(text), total=None)

        def moved(sent: int, total: int) -> None:
            checking = "Sent; the server checks it"
            bar.update(task, completed=sent, total=total, description=checking if sent >= total else printable(text))

        yield moved


@contextmanager
def progress(text: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal: call what it gives with what is done now and how much of the whole was before it."""
    if not sys.stderr.isatty():
        yield lambda _step, _done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(printable(text), total=1.0)
        yield lambda step, done: bar.update(task, completed=done, description=printable(f"{text}: {step}"))
