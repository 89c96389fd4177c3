"""Weights that the processes of one version share: all map the same file, so memory and caches hold them once (ADR 10).

The first process writes the model as it was made ready for this machine, and goes over to what it has written if that
gives the same answers; the others wait for it and load that.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import structlog

from seaway.errors import SeawayError
from seaway.runtimes import prepared
from seaway.runtimes.base import Array, PreparedModels
from seaway.serving.predictor import Predictor

log = structlog.get_logger()

MIN_SHARED_BYTES = 4 << 20
"""Of a package; smaller ones fit into the caches of each core, and their weights are nothing beside a process."""


def open_sharing(
    open_from: Callable[[Path | None], Predictor], package: Path, directory: Path, plain: Predictor | None = None
) -> Predictor:
    """A predictor of `package` whose weights are shared through `directory`, or, where that can't be, of its own.

    `open_from` opens and warms up what is in a directory, or with None the package itself; `plain` is that, where it
    is open already. Raises what opening the package raises.
    """
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    if size < MIN_SHARED_BYTES:
        return plain or open_from(None)
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    with _locked(directory.with_suffix(".lock")):
        if not directory.exists():
            plain = plain or open_from(None)
            writer = prepared(plain.spec.runtime or "")
            if writer is None:
                return plain
            shared, reason = _prepare(open_from, plain, writer, package, directory)
            if shared is not None:
                log.info("worker.weights_shared", bytes=size)
                return shared
            log.warning("worker.weights_not_shared", reason=reason)
            directory.mkdir()  # empty: the next process needn't try
        elif any(directory.iterdir()):
            return open_from(directory)
        return plain or open_from(None)


def _prepare(
    open_from: Callable[[Path | None], Predictor],
    plain: Predictor,
    writer: PreparedModels,
    package: Path,
    directory: Path,
) -> tuple[Predictor | None, str]:
    """Fill `directory`; the predictor opened from it, or None and the reason."""
    fresh = directory.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that died at this
    try:
        fresh.mkdir(mode=0o700)
        writer.prepare(package, plain.spec, fresh)
        shared = open_from(fresh)
        if not _same_answers(plain, shared):
            return None, "It answers differently when its weights are shared."
        fresh.rename(directory)
    except (SeawayError, OSError) as error:
        return None, str(error)
    else:
        return shared, ""
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _same_answers(one: Predictor, other: Predictor) -> bool:
    """Whether both have the same signature, and the same outputs for a sample, to the last bit."""
    if one.signature != other.signature:
        return False
    sample = one.payload(one.sample())
    (first,), (second,) = (each.run([each.prepare(sample)]) for each in (one, other))
    return all(_same(a, b) for run, run2 in zip(first, second, strict=True) for a, b in zip(run, run2, strict=True))


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go for one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
