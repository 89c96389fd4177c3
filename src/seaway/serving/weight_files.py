"""Where processes of a revision look for the weights that they share: a directory each, in the run directory.

`<revision>/` holds them; empty, it says that processes are to have weights of their own. `<revision>.new` is being
written, by whoever holds the lock on `<revision>.lock`. `<revision>.trying` is there while its first process tries the
graph rewritten (`seaway.serving.rewriting`), `<revision>.joining` while it tries several samples in one run
(`seaway.serving.joint_runs`). Whoever measures holds a lock on `measuring`.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from seaway.errors import Unavailable

MEASURING = "measuring"
_TURN_SECONDS, _LOOK_SECONDS = 20.0, 0.02
NEW, LOCK, TRYING, JOINING = ".new", ".lock", ".trying", ".joining"


@contextlib.contextmanager
def trial(note: Path | None) -> Iterator[None]:
    """Keep `note` there during what a process may die of. Raises Unavailable where one did, and OSError."""
    if note is None:
        yield
        return
    if note.exists():
        raise Unavailable("A process died while it tried.")
    note.parent.mkdir(mode=0o700, exist_ok=True)
    note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Measure while no other worker does: versions that are deployed at once, at a start, would slow each other.

    Whose turn doesn't come for `_TURN_SECONDS`, or can't be taken, measures all the same.
    """
    with contextlib.ExitStack() as stack:
        # Closing the file gives the turn to the next; so does dying.
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _wait_for_turn(stack.enter_context((directory / MEASURING).open("w")))
        yield


def _wait_for_turn(file: IO[str]) -> None:
    until = time.monotonic() + _TURN_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
        else:
            return


def keep_apart(directory: Path) -> None:
    """Have processes that start from now on use weights of their own. Raises OSError."""
    for path in (directory, directory.with_suffix(NEW)):
        shutil.rmtree(path, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def is_filled(directory: Path) -> bool:
    """Whether processes share what is there."""
    return directory.is_dir() and any(directory.iterdir())


def remove_all_but(root: Path, revisions: Collection[int]) -> None:
    """Of revisions that nobody wants any more; processes that still map their weights keep them."""
    wanted = {MEASURING, *(str(revision) for revision in revisions)}
    for path in root.glob("*"):
        if path.stem not in wanted:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
