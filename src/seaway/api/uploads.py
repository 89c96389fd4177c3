"""Multipart uploads, streamed from the socket straight into a staging directory."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.registry import Staging
from seaway.types import Json

MAX_FILES = 10_000
MAX_FIELD_BYTES = 1 << 16
_MAX_HEADER_BYTES = 8192
_PICKLE_PROTOCOLS = {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}


@dataclass(slots=True)
class Form:
    """The text fields of an upload, and the names of its files."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def json_field(self, name: str) -> Json | None:
        """A field that holds a JSON object. Raises InvalidRequest."""
        text = self.fields.get(name)
        if not text:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The field {name} is not valid JSON: {error}.") from error
        if not isinstance(value, dict):
            raise InvalidRequest(f"The field {name} must be a JSON object.")
        return value


class _Receiver:
    """Takes the parser's events; one for each upload."""

    def __init__(self, staging: Staging, known_fields: frozenset[str], limit_bytes: int) -> None:
        self.form = Form()
        self._staging = staging
        self._known = known_fields
        self._limit = self._left = limit_bytes
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._header_bytes = self._parts = 0
        self._file: BinaryIO | None = None
        self._field: str | None = None
        self._text = bytearray()

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FILES:
            raise InvalidRequest(f"The upload has more than {MAX_FILES} parts.")
        self._headers, self._header_bytes = {}, 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += self._measured(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._measured(data[start:end])

    def _measured(self, piece: bytes) -> bytes:
        self._header_bytes += len(piece)
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise InvalidRequest("A part of the upload has headers of more than 8 kB.")
        return piece

    def header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = options.get(b"filename")
        try:
            if filename is not None:
                name = _path_in(self._headers[b"content-disposition"], filename).decode()
                self._file = self._staging.open(name)
                self.form.files.append(name)
                return
            self._field = options.get(b"name", b"").decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("The names in an upload must be UTF-8.") from error
        if self._field not in self._known:
            known = ", ".join(sorted(self._known))
            raise InvalidRequest(
                f"The upload has a field {self._field[:80]!r}; known are: {known}; files need a filename."
            )
        if self._field in self.form.fields:
            raise InvalidRequest(f"The field {self._field} is there twice.")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._left -= end - start
            if self._left < 0:
                raise PayloadTooLarge(f"The upload has more than {self._limit} bytes (max_upload_bytes).")
            self._file.write(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise PayloadTooLarge(f"The field {self._field} has more than {MAX_FIELD_BYTES} bytes.")

    def part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._field is not None:
            try:
                self.form.fields[self._field] = self._text.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"The field {self._field} must be UTF-8 text.") from error
            self._field, self._text = None, bytearray()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _path_in(disposition: bytes, filename: bytes) -> bytes:
    # The parser drops everything up to a backslash, as old browsers needed; a path with one must be refused instead.
    return b"\\" if b"\\" in disposition else filename


async def receive(request: Request, staging: Staging, *, fields: frozenset[str], limit_bytes: int) -> Form:
    """Read the whole upload into `staging`. Raises InvalidRequest, InvalidPackage or PayloadTooLarge."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("Send the files as multipart/form-data, as `curl -F files=@model.onnx` does.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit_bytes + MAX_FIELD_BYTES * 16:
        raise PayloadTooLarge(f"The upload has {length} bytes; the limit is {limit_bytes} (max_upload_bytes).")
    receiver = _Receiver(staging, fields, limit_bytes)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": receiver.part_begin,
                "on_header_field": receiver.header_name,
                "on_header_value": receiver.header_value,
                "on_header_end": receiver.header_end,
                "on_headers_finished": receiver.headers_finished,
                "on_part_data": receiver.part_data,
                "on_part_end": receiver.part_end,
            },
        )
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidRequest(f"The upload is no valid form: {error}.") from error
    finally:
        receiver.close()
    if not receiver.form.files:
        raise InvalidRequest("The upload holds no file: send at least one part with a filename.")
    return receiver.form


def refuse_pickles(directory: Path) -> None:
    """Nothing that runs code when it is loaded is accepted, whatever it is called. Raises InvalidPackage."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(directory).as_posix()
        with path.open("rb") as file:
            start = file.read(2)
        if start in _PICKLE_PROTOCOLS or path.suffix.lower() in {".pkl", ".pickle", ".joblib"}:
            raise InvalidPackage(f"{name!r} is a pickle, which runs code when it is loaded; export the model to ONNX.")
        if zipfile.is_zipfile(path) and _holds_pickle(path):
            raise InvalidPackage(
                f"{name!r} is an archive with pickles (TorchScript, torch.save); export the model to ONNX."
            )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.endswith((".pkl", ".pickle")) for entry in archive.namelist())
    except zipfile.BadZipFile:
        return False  # not a zip after all; inspection says what it is
