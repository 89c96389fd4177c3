"""Unpacking uploaded archives: sizes and names are checked before anything is written, links are refused."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from seaway.errors import InvalidPackage, PayloadTooLarge
from seaway.packages.manifest import safe_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; `open` may be called once."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(filename: str) -> bool:
    return filename.lower().endswith(SUFFIXES)


def unpack(archive: Path, target: Path, *, limit_bytes: int, max_files: int) -> None:
    """Unpack into the empty directory `target`. Raises InvalidPackage or PayloadTooLarge; writes nothing outside."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(_zip_members(opened, max_files), target, limit_bytes)
        else:
            with tarfile.open(archive, "r:*") as opened_tar:
                _write(_tar_members(opened_tar, max_files), target, limit_bytes)
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
        NotImplementedError, RuntimeError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise InvalidPackage(f"The archive can't be read: {error}.") from error


def _zip_members(archive: zipfile.ZipFile, max_files: int) -> Iterator[Member]:
    entries = archive.infolist()
    _check_count(len(entries), max_files)
    for info in entries:
        if info.is_dir():
            safe_path(info.filename.rstrip("/"))
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            raise InvalidPackage(
                f"{info.filename[:80]!r} in the archive is a link or a device; only files are accepted."
            )
        yield Member(info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile, max_files: int) -> Iterator[Member]:
    for count, info in enumerate(archive, start=1):
        _check_count(count, max_files)
        name = info.name.removeprefix("./")
        if info.isdir():
            if name not in {"", "."}:
                safe_path(name)
            continue
        if not info.isfile():
            raise InvalidPackage(f"{name[:80]!r} in the archive is a link or a device; only files are accepted.")
        yield Member(name, info.size, lambda info=info: _extracted(archive, info))  # type: ignore[misc]


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    if file is None:
        raise InvalidPackage(f"{info.name[:80]!r} in the archive is no file.")
    return file


def _check_count(count: int, max_files: int) -> None:
    if count > max_files:
        raise InvalidPackage(f"The archive has more than {max_files} entries.")


def _write(members: Iterator[Member], target: Path, limit_bytes: int) -> None:
    left = limit_bytes
    seen: set[str] = set()
    for member in members:
        path = safe_path(member.path)
        if str(path) in seen:
            raise InvalidPackage(f"{member.path[:80]!r} is in the archive twice.")
        seen.add(str(path))
        if member.size > left:
            raise PayloadTooLarge(f"The archive unpacks to more than {limit_bytes} bytes (max_upload_bytes).")
        place = target / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, place.open("xb") as copy:
                left -= _copy(source, copy, left, limit_bytes)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InvalidPackage(f"{member.path[:80]!r} is both a file and a folder in the archive.") from error
    _hoist(target)


def _copy(source: IO[bytes], target: IO[bytes], left: int, limit_bytes: int) -> int:
    """Bytes written; what the archive says about its sizes is not trusted."""
    written = 0
    while block := source.read(_BLOCK):
        written += len(block)
        if written > left:
            raise PayloadTooLarge(f"The archive unpacks to more than {limit_bytes} bytes (max_upload_bytes).")
        target.write(block)
    return written


def _hoist(target: Path) -> None:
    """An archive of one folder is that folder's content: most tools pack it so."""
    entries = list(target.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return
    folder = entries[0].rename(target.parent / f"{target.name}.folder")
    target.rmdir()
    shutil.move(folder, target)
