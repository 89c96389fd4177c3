"""Unpacking uploaded archives: names, kinds, numbers and sizes are checked, and what an archive claims is not believed.

.zip, .tar and .tar.gz. Nothing is written outside the directory that is being filled.
"""

from __future__ import annotations

import errno
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from seaway.errors import InvalidPackage, PayloadTooLarge
from seaway.packages.manifest import safe_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_BLOCK = 1 << 20
_TAR_BLOCK = 512
_CENTRAL_ENTRY_BYTES = 512
"""Of a zip's directory for each file, generously; it is read into memory before its entries can be counted."""


def is_archive(filename: str) -> bool:
    return filename.lower().endswith(SUFFIXES)


def create_file(directory: Path, path: str) -> BinaryIO:
    """A new file below `directory`, to write. Raises InvalidPackage for unsafe names and for one used before."""
    place = directory / safe_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidPackage(f"{path[:80]!r} is there twice, or both as a file and as a folder.") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InvalidPackage(f"{path[:80]!r} has a part of more than 255 bytes; rename it.") from error


def unpack(archive: Path, target: Path, *, limit_bytes: int, max_files: int) -> None:
    """Unpack into the empty directory `target`. Raises InvalidPackage or PayloadTooLarge."""
    with archive.open("rb") as file:
        start = file.read(4)
    try:
        # By its first bytes: what ends like a zip may begin as something else.
        if start[:2] == b"PK":
            _unpack_zip(archive, target, limit_bytes, max_files)
        elif start[:2] == b"\x1f\x8b":
            with gzip.open(archive) as unzipped:
                _unpack_tar(cast(IO[bytes], unzipped), target, limit_bytes, max_files)
        else:
            with archive.open("rb") as plain:
                _unpack_tar(plain, target, limit_bytes, max_files)
    except (
        zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error,
        EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError,
    ) as error:  # fmt: skip
        raise InvalidPackage(f"The archive is damaged or of a kind that isn't read here: {error}.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A damaged table of contents sends the reader to before the beginning of the file.
        raise InvalidPackage("The archive is damaged: its table of contents points outside of it.") from error
    _hoist(target)


class _Budget:
    """Counts down the bytes that may still be written."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = self.left = limit_bytes

    def take(self, n_bytes: int) -> None:
        """Raises PayloadTooLarge."""
        self.left -= n_bytes
        if self.left < 0:
            raise PayloadTooLarge(f"The archive unpacks to more than {self.limit} bytes (max_upload_bytes).")

    def copy(self, source: IO[bytes], target: BinaryIO) -> None:
        with source, target:
            while block := source.read(_BLOCK):
                self.take(len(block))
                target.write(block)


def _check_count(count: int, max_files: int) -> None:
    if count > max_files:
        raise InvalidPackage(f"The archive has more than {max_files} entries.")


def _only_files(name: str) -> InvalidPackage:
    return InvalidPackage(f"{name[:80]!r} in the archive is a link or a device; only files are accepted.")


# --------------------------------------------------------------------------- zip


class _BoundedReader(io.FileIO):
    """A file that is never read in pieces larger than `largest`."""

    def __init__(self, path: Path, largest: int) -> None:
        super().__init__(path)
        self._largest = largest

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._largest:
            raise InvalidPackage("The directory of the zip archive is too large: it has too many entries.")
        return super().read(-1 if size is None else size) or b""


def _unpack_zip(archive: Path, target: Path, limit_bytes: int, max_files: int) -> None:
    largest = max(2 * _BLOCK, max_files * _CENTRAL_ENTRY_BYTES)
    with _BoundedReader(archive, largest) as file, zipfile.ZipFile(cast(IO[bytes], file)) as opened:
        entries = opened.infolist()
        _check_count(len(entries), max_files)
        files = list(_zip_files(entries))
        # All claims first, so that an honest archive that is too large costs nothing; then what is really there.
        if sum(info.file_size for info in files) > limit_bytes:
            raise PayloadTooLarge(f"The archive unpacks to more than {limit_bytes} bytes (max_upload_bytes).")
        budget = _Budget(limit_bytes)
        for info in files:
            budget.copy(opened.open(info), create_file(target, info.orig_filename))


def _zip_files(entries: list[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    for info in entries:
        # Not `filename`, which was cut at a NUL.
        name = info.orig_filename
        safe_path(name.removesuffix("/"))
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise _only_files(name)
        if info.flag_bits & 1:
            raise InvalidPackage(f"{name[:80]!r} in the archive is encrypted.")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InvalidPackage(f"{name[:80]!r} in the archive is compressed in a way not read here; use deflate.")
        if not name.endswith("/"):
            yield info


# --------------------------------------------------------------------------- tar


class _Tape:
    """A stream that is read forwards only, and between two `allow` no more than was allowed.

    tarfile believes lengths in headers: a name of 8 GiB would be read into memory, and a negative size would lead back.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._position = 0
        self._allowed = _BLOCK
        self.last = b""

    def allow(self, n_bytes: int) -> None:
        self._allowed = n_bytes

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._allowed:
            raise InvalidPackage("The tar archive has headers that are too large, or something after its end.")
        self.last = self._source.read(size)
        self._position += len(self.last)
        self._allowed -= len(self.last)
        return self.last

    def seek(self, position: int) -> None:
        if position < self._position:
            raise InvalidPackage("The tar archive has sizes that lead backwards; it is damaged.")
        while gap := position - self._position:
            if not self.read(min(gap, _BLOCK)):
                raise InvalidPackage("The tar archive is cut off.")


def _unpack_tar(source: IO[bytes], target: Path, limit_bytes: int, max_files: int) -> None:
    tape = _Tape(source)
    budget = _Budget(limit_bytes)
    count = 0
    with tarfile.TarFile(fileobj=cast(IO[bytes], tape)) as opened:
        while (info := opened.next()) is not None:
            count += 1
            _check_count(count, max_files)
            _unpack_member(opened, info, target, tape, budget)
            tape.allow(_BLOCK)
    # tarfile ends in silence at a damaged header; a whole archive ends with zeros.
    if tape.last != bytes(_TAR_BLOCK):
        raise InvalidPackage("The tar archive is cut off or damaged.")
    while tape.read(_TAR_BLOCK):  # gzip compares its checksum at the end
        continue


def _unpack_member(opened: tarfile.TarFile, info: tarfile.TarInfo, target: Path, tape: _Tape, budget: _Budget) -> None:
    name = info.name.removeprefix("./")
    if info.isdir():
        if name not in {"", "."}:
            safe_path(name)
        return
    if not info.isfile() or info.issparse():
        raise _only_files(name)
    if not 0 <= info.size <= budget.left:
        budget.take(budget.left + 1)
    tape.allow(info.size + _BLOCK)
    file = opened.extractfile(info)
    if file is None:
        raise _only_files(name)
    budget.copy(file, create_file(target, name))


def _hoist(target: Path) -> None:
    """An archive of one folder is that folder's content: most tools pack it so."""
    entries = list(target.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return
    folder = entries[0].rename(target.with_name(f"{target.name}.folder"))
    target.rmdir()
    folder.rename(target)
