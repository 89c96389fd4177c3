"""Weights that the processes of one version share: all map the same file, so memory and caches hold them once (ADR 10).

The first process writes the model as it was made ready for this machine, and goes over to what it has written if that
gives the same answers; the others wait for it and load that. Whatever goes wrong, processes have weights of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import structlog

from seaway.errors import SeawayError, Unavailable
from seaway.runtimes import prepared
from seaway.runtimes.base import Array, PreparedModels
from seaway.serving.calibration import MAX_COPIED_BYTES
from seaway.serving.parity import limited, trial_feeds
from seaway.serving.predictor import Predictor
from seaway.serving.weight_files import LOCK, NEW, keep_apart

log = structlog.get_logger()

MIN_SHARED_BYTES = MAX_COPIED_BYTES
"""Of a package; smaller ones fit into the caches of each core, and their weights are nothing beside a process."""
_MOST_SECONDS = 10.0
"""Trial runs that are not over by then are ended: each process keeps weights of its own."""

OpenFrom = Callable[[Path | None], Predictor]


def open_sharing(open_from: OpenFrom, package: Path, directory: Path, plain: Predictor | None = None) -> Predictor:
    """A predictor of `package` whose weights are shared through `directory`, or, where that can't be, of its own.

    `open_from` opens and warms up what is in a directory, or with None the package itself; `plain` is that, where it
    is open already. Raises what opening the package raises.
    """
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    if size < MIN_SHARED_BYTES:
        return plain or open_from(None)
    try:
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        with _locked(directory.with_suffix(LOCK)):
            if directory.exists():
                if any(directory.iterdir()):
                    return open_from(directory)
                return plain or open_from(None)
            plain = plain or open_from(None)
            writer = prepared(plain.spec.runtime or "")
            return plain if writer is None else _prepare(open_from, plain, writer, package, directory)
    except (SeawayError, OSError) as error:
        log.warning("worker.weights_not_shared", reason=str(error))
        return plain or open_from(None)


def _prepare(
    open_from: OpenFrom, plain: Predictor, writer: PreparedModels, package: Path, directory: Path
) -> Predictor:
    """Fill `directory` and open it; where that fails, note so for the next process. Raises OSError."""
    fresh = directory.with_suffix(NEW)
    if fresh.exists():
        # A process died at this. It may have been for another reason, but the next one should live.
        keep_apart(directory)
        log.warning("worker.weights_not_shared", reason="A process died while it tried.")
        return plain
    fresh.mkdir(mode=0o700)
    try:
        writer.prepare(package, plain.spec, fresh, rewritten=plain.rewritten)
        shared = open_from(fresh)
        if differing := _difference(plain, shared):
            raise Unavailable(differing)
    except SeawayError as error:
        keep_apart(directory)
        log.info("worker.weights_not_shared", reason=str(error))
        return plain
    n_bytes = sum(path.stat().st_size for path in fresh.iterdir())
    fresh.rename(directory)
    log.info("worker.weights_shared", bytes=n_bytes)
    return shared


def _difference(one: Predictor, other: Predictor) -> str:
    """What tells two predictors apart, in a sentence: signatures, or any bit of an answer; empty when nothing does."""
    if one.signature != other.signature:
        return "The signature is another when weights are shared."
    names = [spec.name for spec in one.signature.outputs]
    with limited(_MOST_SECONDS) as handle:
        for feeds in trial_feeds(one):
            try:
                expected = one.session.run(feeds, names, handle)
            except SeawayError:
                if handle.terminated:
                    raise
                continue  # an input it has no use for
            if not all(map(_same, expected, other.session.run(feeds, names, handle))):
                return "The answers are others when weights are shared."
    return ""


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go for one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
