"""Multipart bodies made while they are sent: however large the files are, only one chunk is in memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seaway.errors import InvalidPackage

Progress = Callable[[int, int], None]
"""Hears after each chunk how many bytes of how many have been sent."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UploadFile:
    """One file to send. `name` is its path in the package, with `/` between the parts."""

    name: str
    path: Path
    n_bytes: int


def list_files(source: Path) -> list[UploadFile]:
    """What to send for `source`: the file itself, or every file below the directory, sorted.

    Links to files are followed, as model caches are full of them; a link to a directory could lead in circles and is
    refused. Raises InvalidPackage when there is nothing to send.
    """
    if not source.is_dir():
        return [_upload_file(source.name, source)]
    found = []
    for directory, directories, names in os.walk(source):
        here = Path(directory)
        for name in directories:
            if (here / name).is_symlink():
                raise InvalidPackage(f"{here / name} is a link to a directory; put the files themselves there.")
        found += [_upload_file((here / name).relative_to(source).as_posix(), here / name) for name in names]
    if not found:
        raise InvalidPackage(f"The directory {source} has no files.")
    return sorted(found, key=lambda file: file.name)


def _upload_file(name: str, path: Path) -> UploadFile:
    # The name goes into a header, where these characters would end it.
    if any(character in '"\\' or not character.isprintable() for character in name):
        raise InvalidPackage(f"The file name {name!r} has a quote, a backslash or an unprintable character; rename it.")
    if not path.is_file():
        raise InvalidPackage(f"{path} is not a file that can be read.")
    return UploadFile(name, path, path.stat().st_size)


class Multipart:
    """A multipart/form-data body of text fields and files, in that order."""

    def __init__(self, files: Sequence[UploadFile], fields: Mapping[str, str]) -> None:
        self._files = files
        self._boundary = secrets.token_hex(16)
        self._fields = "".join(
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in fields.items()
        ).encode()
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def n_bytes(self) -> int:
        """Of the whole body; the server is told beforehand, so that it can refuse what is too large at once."""
        parts = sum(len(self._head(file)) + file.n_bytes + 2 for file in self._files)
        return len(self._fields) + parts + len(self._end)

    def chunks(self, progress: Progress | None = None) -> Iterator[bytes]:
        """The body. Raises InvalidPackage when a file has changed since it was listed."""
        total = sum(file.n_bytes for file in self._files)
        sent = 0
        yield self._fields
        for file in self._files:
            yield self._head(file)
            for chunk in _read(file):
                yield chunk
                sent += len(chunk)
                if progress is not None:
                    progress(sent, total)
            yield b"\r\n"
        yield self._end

    def _head(self, file: UploadFile) -> bytes:
        return (
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()


def _read(file: UploadFile) -> Iterator[bytes]:
    left = file.n_bytes
    with file.path.open("rb") as stream:
        while left > 0:
            chunk = stream.read(min(_CHUNK_BYTES, left))
            if not chunk:
                raise InvalidPackage(f"{file.path} got shorter while it was sent; try again when it is complete.")
            left -= len(chunk)
            yield chunk
