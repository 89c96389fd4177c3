"""What people and programs see: answers on standard output, everything else on standard error.

Colour and moving things appear only on a terminal. Rich is imported when something is drawn, so that `--json` and
`--help` don't wait for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from seaway.client import Progress

_PIPE_COLUMNS = 1000  # what reads a pipe has no edge to wrap at
_GAP = 3  # between two columns
_ID_CHARACTERS = 12
_WRAPPED, _LEAST = 24, 8
"""Where room is short, only cells wider than the first are wrapped; the second is the least that a cell is left."""


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


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    empty: str,
    less: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> None:
    """Rows under their headings, or the sentence `empty` when there are none. None is shown as a dash.

    A terminal too narrow for them gets the columns `ids` in short, and not all of `less`, whose first goes first.
    """
    from rich import box
    from rich.table import Table

    texts = [["-" if cell is None else printable(cell) for cell in row] for row in rows]
    if not texts:
        say(empty)
        return
    shown = [_Column(name, [row[at] for row in texts]) for at, name in enumerate(columns)]
    console = _console(sys.stdout)
    fitted = fit(shown, console.width, less=less, ids=ids)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in fitted:
        # Lines end between words; a word that is wider than its column ends in an ellipsis.
        table.add_column(column.name, overflow="ellipsis", width=column.width)
    for row in zip(*(column.cells for column in fitted), strict=True):
        table.add_row(*row)
    # Soft wrapping is for sentences.
    console.print(table, soft_wrap=False)
    if len(fitted) < len(shown) or any(column.lacks_something() for column in fitted):
        note("There is more than fits here; --json has all.")


@dataclass(slots=True)
class _Column:
    """A column of a table, and how wide it is drawn."""

    name: str
    cells: list[str]
    width: int = 0
    shortened: bool = False

    def __post_init__(self) -> None:
        if not self.width:
            self.width = max(_width(line) for text in (self.name, *self.cells) for line in text.split("\n"))

    def widest_word(self) -> int:
        return max((_width(word) for text in (self.name, *self.cells) for word in text.split()), default=0)

    def in_short(self) -> _Column:
        cells = [cell[:_ID_CHARACTERS] for cell in self.cells]
        return _Column(self.name, cells, shortened=cells != self.cells)

    def lacks_something(self) -> bool:
        return self.shortened or self.width < self.widest_word()


def fit(columns: Sequence[_Column], room: int, *, less: Sequence[str] = (), ids: Sequence[str] = ()) -> list[_Column]:
    """What is drawn of a table in `room` characters: all if it can be; never half a word without an ellipsis."""
    if _missing(columns, room) <= 0:
        return list(columns)
    fitted = [column.in_short() if column.name in ids else column for column in columns]
    for name in less:
        if _missing(fitted, room) <= sum(max(column.width - _when_wrapped(column), 0) for column in fitted):
            break
        fitted = [column for column in fitted if column.name != name]
    fitted = _narrowed(fitted, room, _when_wrapped)
    return _narrowed(fitted, room, lambda column: max(_width(column.name), _LEAST))


def _when_wrapped(column: _Column) -> int:
    return max(column.widest_word(), _WRAPPED)


def _narrowed(columns: list[_Column], room: int, least: Callable[[_Column], int]) -> list[_Column]:
    """The columns, the widest of them narrower until all have room or none may become narrower."""
    narrowed = [replace(column) for column in columns]
    for _ in range(_missing(columns, room)):
        may = [column for column in narrowed if column.width > least(column)]
        if not may:
            break
        max(may, key=lambda column: column.width).width -= 1
    return narrowed


def _missing(columns: Sequence[_Column], room: int) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1) - room


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "sample"), counted(4096, "token")
    ('1 sample', '4,096 tokens')
    """
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def is_terminal() -> bool:
    """Whether a person reads the answers."""
    return sys.stdout.isatty()


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
