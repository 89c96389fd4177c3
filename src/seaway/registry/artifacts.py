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

import structlog

from seaway import faults
from seaway.errors import ArtifactCorrupt, Unavailable
from seaway.packages.manifest import safe_path, scan, verify
from seaway.registry import archives
from seaway.types import Manifest

log = structlog.get_logger()

_FULL = {errno.ENOSPC, errno.EDQUOT}
_BROKEN = {errno.EIO, errno.EROFS}


class Staging:
    """A directory that is being filled. `directory` holds the files of the artifact to be."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "files"
        self.directory.mkdir(parents=True)

    def open(self, path: str) -> BinaryIO:
        """A new file of the artifact, to write. Raises InvalidPackage for unsafe names and for one used before."""
        return archives.create_file(self.directory, path)

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
        _sync_directory(root)

    def path(self, digest: str) -> Path:
        return self._store / digest[:2] / digest

    @contextlib.contextmanager
    def stage(self) -> Iterator[Staging]:
        """A place to fill; the rest of it is removed at the end. Raises Unavailable when the disk can't take it."""
        place = self._place()
        try:
            yield Staging(place)
        except OSError as error:
            if error.errno in _FULL:
                raise Unavailable("The disk is full; nothing was kept. Make room and try again.") from error
            if error.errno in _BROKEN:
                raise Unavailable(
                    f"The disk can't be written ({os.strerror(error.errno)}); nothing was kept. Mend it and try again."
                ) from error
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _place(self) -> Path:
        return self._staging / secrets.token_hex(8)

    def keep(self, staging: Staging) -> Manifest:
        """Move a staged artifact to its final place; the same bytes are kept once. Raises InvalidPackage."""
        manifest = self.prepare(staging)
        self.place(staging, manifest)
        return manifest

    def prepare(self, staging: Staging) -> Manifest:
        """The slow part of `keep`: hash the files and write them through to the disk. Raises InvalidPackage."""
        manifest = scan(staging.directory)
        _sync_tree(staging.directory)
        faults.point("register.staged")
        final = self.path(manifest.digest)
        if final.exists():
            try:
                verify(final, manifest)
            except ArtifactCorrupt as error:
                # These are the right bytes, and nothing could be served from those: the new ones take their place.
                log.warning("artifact.replaced", digest=manifest.digest, reason=str(error))
                with contextlib.suppress(FileNotFoundError):
                    final.rename(staging.place / "corrupt")
        return manifest

    def place(self, staging: Staging, manifest: Manifest) -> None:
        """The quick part: all of it is in its final place, or nothing. May be called again."""
        final = self.path(manifest.digest)
        final.parent.mkdir(exist_ok=True)
        try:
            staging.directory.rename(final)
        except OSError as error:
            # Somebody was here before: another upload of these bytes, or this one.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT} or not final.is_dir():
                raise
        _sync_directory(final.parent)
        _sync_directory(self._store)
        faults.point("register.renamed")

    def collect(self, referenced: set[str]) -> int:
        """Remove what a dead process left: staging, and artifacts that no row names. Called before serving starts."""
        for path in self._store.glob("*/*"):
            if path.name not in referenced:
                path.rename(self._place())
        leftovers = list(self._staging.iterdir())
        for path in leftovers:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return len(leftovers)

    def discard(self, digest: str) -> None:
        """Remove an artifact that has no row, at once: half of it must never stand under its digest."""
        gone = self._place()
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


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
