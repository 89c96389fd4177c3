"""Artifacts on disk by content: a directory for each digest, put there whole or not at all.

<root>/staging/<random>/            being written; removed at the next start if its process died
<root>/sha256/<aa>/<digest>/        complete, never changed; digest of the manifest (types.Manifest)
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from seaway import faults
from seaway.errors import InvalidPackage, Unavailable
from seaway.packages.manifest import safe_path, scan, verify
from seaway.registry import archives
from seaway.types import Manifest

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Staging:
    """A directory that is being filled. `directory` holds the files of the artifact to be."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "files"
        self.directory.mkdir(parents=True)

    def open(self, path: str) -> BinaryIO:
        """A new file of the artifact, to write. Raises InvalidPackage for unsafe names and for one used before."""
        place = self.directory / safe_path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            return place.open("xb")
        except FileExistsError as error:
            raise InvalidPackage(f"The file {path[:80]!r} is there twice.") from error
        except (NotADirectoryError, IsADirectoryError) as error:
            raise InvalidPackage(f"{path[:80]!r} is both a file and a folder.") from error

    def unpack_archive(self, path: str, *, limit_bytes: int, max_files: int = 10_000) -> None:
        """Replace the one file `path` by what it contains."""
        packed = self.place / "archive"
        (self.directory / safe_path(path)).rename(packed)
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        archives.unpack(packed, self.directory, limit_bytes=limit_bytes, max_files=max_files)
        packed.unlink()


class ArtifactStore:
    """All artifacts of this server. Safe to use from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self._staging = root / "staging"
        self._store = root / "sha256"
        self._staging.mkdir(parents=True, exist_ok=True)
        self._store.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self._store / digest[:2] / digest

    @contextlib.contextmanager
    def stage(self) -> Iterator[Staging]:
        """A place to fill; the rest of it is removed at the end. Raises Unavailable when the disk is full."""
        place = self._staging / secrets.token_hex(8)
        try:
            yield Staging(place)
        except OSError as error:
            if error.errno in _FULL:
                raise Unavailable("The disk is full; nothing was kept. Make room and try again.") from error
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def keep(self, staging: Staging) -> Manifest:
        """Move a staged artifact to its final place; the same bytes are kept once. Raises InvalidPackage."""
        manifest = scan(staging.directory)
        _sync_tree(staging.directory)
        faults.point("register.staged")
        final = self.path(manifest.digest)
        final.parent.mkdir(exist_ok=True)
        try:
            staging.directory.rename(final)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            # Somebody was here before, now or long ago; what is there must be what it is called.
            verify(final, manifest)
        _sync_directory(final.parent)
        _sync_directory(self._store)
        faults.point("register.renamed")
        return manifest

    def collect(self, referenced: set[str]) -> int:
        """Remove what a dead process left: staging, and artifacts that no row names. Called before serving starts."""
        leftovers = list(self._staging.iterdir())
        leftovers += [path for path in self._store.glob("*/*") if path.name not in referenced]
        for path in leftovers:
            shutil.rmtree(path)
        return len(leftovers)

    def discard(self, digest: str) -> None:
        """Remove an artifact that turned out to have no row."""
        shutil.rmtree(self.path(digest), ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync(Path(folder) / name)
        _sync_directory(Path(folder))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_sync_directory = _sync
