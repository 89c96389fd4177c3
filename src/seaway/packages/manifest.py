"""The files of a package by content: hashed when it arrives, compared before it is loaded."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from seaway.errors import ArtifactCorrupt, InvalidPackage
from seaway.types import FileEntry, Manifest

MAX_PATH_CHARACTERS = 240
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:|[\ud800-\udfff]")


def safe_path(path: str) -> PurePosixPath:
    """`path` as a relative path that stays inside the package, whoever wrote it. Raises InvalidPackage.

    >>> safe_path("weights/part-0.bin").name
    'part-0.bin'
    """
    shown = repr(path[:80])
    if not path or len(path) > MAX_PATH_CHARACTERS:
        raise InvalidPackage(
            f"The file name {shown} has {len(path)} characters; 1 to {MAX_PATH_CHARACTERS} are allowed."
        )
    if _FORBIDDEN.search(path):
        raise InvalidPackage(
            f"The file name {shown} holds a backslash, a drive or a control character; rename the file."
        )
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise InvalidPackage(
            f"The file name {shown} must be relative to the package, without '.', '..' or empty parts."
        )
    return PurePosixPath(path)


def scan(directory: Path) -> Manifest:
    """Hash every file below `directory`. Raises InvalidPackage for links, devices, unsafe names, or no file."""
    files = tuple(
        FileEntry(path, source.lstat().st_size, _sha256(source)) for path, source in sorted(_files(directory, ""))
    )
    if not files:
        raise InvalidPackage("There are no files in it; add at least the model file.")
    return Manifest(files)


def verify(directory: Path, manifest: Manifest) -> None:
    """Compare what is on disk with what was registered. Raises ArtifactCorrupt naming the first file that differs."""
    try:
        present = dict(_files(directory, ""))
    except InvalidPackage as error:
        raise ArtifactCorrupt(f"The stored package was changed: {error}") from error
    except FileNotFoundError as error:
        raise ArtifactCorrupt("The stored package is gone; register the version again.") from error
    expected = {entry.path: entry for entry in manifest.files}
    if extra := sorted(present.keys() - expected.keys()):
        raise ArtifactCorrupt(f"The stored package has a file that was never registered: {extra[0]!r}.")
    for path, entry in sorted(expected.items()):
        if path not in present:
            raise ArtifactCorrupt(f"The stored package lacks the file {path!r}.")
        size = present[path].lstat().st_size
        if size != entry.size:
            raise ArtifactCorrupt(f"The stored file {path!r} has {size} bytes; {entry.size} were registered.")
        if _sha256(present[path]) != entry.sha256:
            raise ArtifactCorrupt(f"The bytes of the stored file {path!r} are not those that were registered.")


def _files(directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """Every regular file as (path in the package, path on disk); anything else is refused."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = str(safe_path(prefix + entry.name))
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _files(Path(entry.path), f"{path}/")
            elif stat.S_ISREG(mode):
                yield path, Path(entry.path)
            else:
                raise InvalidPackage(f"{path!r} is a link or a device; only plain files are accepted.")


def _sha256(path: Path) -> str:
    # O_NOFOLLOW: the file may have been swapped for a link since it was listed.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
