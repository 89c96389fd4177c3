"""Multipart uploads, streamed from the socket straight into a staging directory.

Nothing is kept in memory but one block and the text fields. Blocks are written in a thread, so that a slow disk
doesn't hold up the event loop that also reconciles deployments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from seaway.api.bodies import declared_length
from seaway.api.objects import read_object
from seaway.errors import DeadlineExceeded, InvalidPackage, InvalidRequest, PayloadTooLarge, UnsupportedEncoding
from seaway.registry import Staging
from seaway.types import Json

MAX_FILES = 10_000
MAX_FIELD_BYTES = 1 << 16
_MAX_HEADER_BYTES = 8192
_BLOCK_BYTES = 1 << 20
_FORM_BYTES = 1 << 20
"""What a form may need beyond its files' bytes, besides `_MAX_HEADER_BYTES` a part."""

# The library logs a warning for every broken form; the caller is told, and that is enough.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(slots=True)
class Form:
    """The text fields of an upload, and the names of its files."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def json_field(self, name: str) -> Json | None:
        """A field that holds a JSON object. Raises InvalidRequest."""
        text = self.fields.get(name)
        return read_object(text.encode(), name) if text else None


class _Receiver:
    """Takes the bytes of one upload; called in threads, one call after the other."""

    def __init__(self, boundary: bytes, staging: Staging, known_fields: frozenset[str], limit_bytes: int) -> None:
        self.form = Form()
        self._staging = staging
        self._known = known_fields
        self._limit = limit_bytes
        self._file_bytes = self._all_bytes = self._parts = self._header_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._file: BinaryIO | None = None
        self._field: str | None = None
        self._text = bytearray()
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def take(self, block: bytes) -> None:
        """The next bytes. Raises InvalidRequest, InvalidPackage or PayloadTooLarge."""
        self._all_bytes += len(block)
        if self._all_bytes > self._limit + _FORM_BYTES + self._parts * _MAX_HEADER_BYTES:
            # Whatever is neither a file nor a field: before the first part, between parts, after the last.
            raise PayloadTooLarge(f"The upload has more than {self._limit} bytes (max_upload_bytes).")
        self._parser.write(block)

    def finish(self) -> Form:
        if not self._complete:
            raise InvalidRequest("The upload ends before its closing boundary: it was cut off; send it again.")
        if not self.form.files:
            raise InvalidRequest("The upload holds no file: send at least one part with a filename.")
        return self.form

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ------------------------------------------------------------------ the parser's events

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FILES:
            raise InvalidRequest(f"The upload has more than {MAX_FILES} parts.")
        self._headers, self._header_bytes = {}, 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += self._measured(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._measured(data[start:end])

    def _measured(self, piece: bytes) -> bytes:
        self._header_bytes += len(piece)
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise InvalidRequest(f"A part of the upload has headers of more than {_MAX_HEADER_BYTES} bytes.")
        return piece

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data":
            raise InvalidRequest("Every part of an upload needs a header `Content-Disposition: form-data`.")
        try:
            if b"filename" in options:
                self._open(disposition, options[b"filename"].decode())
            else:
                self._begin_field(options.get(b"name", b"").decode())
        except UnicodeDecodeError as error:
            raise InvalidRequest("The names in an upload must be UTF-8.") from error

    def _open(self, disposition: bytes, name: str) -> None:
        if b"\\" in disposition:
            # The parser would take off everything before it, as old browsers needed; the rest is another name.
            raise InvalidPackage(f"The file name ending in {name[-80:]!r} holds a backslash; use '/' between folders.")
        self._file = self._staging.open(name)
        self.form.files.append(name)

    def _begin_field(self, name: str) -> None:
        if name not in self._known:
            known = ", ".join(sorted(self._known))
            raise InvalidRequest(f"The upload has a field {name[:80]!r}; known are: {known}; files need a filename.")
        if name in self.form.fields:
            raise InvalidRequest(f"The field {name} is there twice.")
        self._field = name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file_bytes += end - start
            if self._file_bytes > self._limit:
                raise PayloadTooLarge(f"The upload has more than {self._limit} bytes (max_upload_bytes).")
            self._file.write(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise PayloadTooLarge(f"The field {self._field} has more than {MAX_FIELD_BYTES} bytes.")

    def _part_end(self) -> None:
        if self._field is None:
            self.close()
            return
        try:
            text = self._text.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"The field {self._field} must be UTF-8 text.") from error
        if "\x00" in text:
            raise InvalidRequest(f"The field {self._field} must be text without NUL.")
        self.form.fields[self._field] = text
        self._field, self._text = None, bytearray()

    def _end(self) -> None:
        self._complete = True


async def receive(
    request: Request, staging: Staging, *, fields: frozenset[str], limit_bytes: int, silence_seconds: float
) -> Form:
    """Read the whole upload into `staging`.

    Raises InvalidRequest, InvalidPackage (names), PayloadTooLarge, UnsupportedEncoding, or DeadlineExceeded when
    nothing comes for `silence_seconds`.
    """
    boundary = _boundary(request)
    length = declared_length(request)
    if length is not None and length > limit_bytes + MAX_FILES * _MAX_HEADER_BYTES:
        raise PayloadTooLarge(f"The upload has {length} bytes; the limit is {limit_bytes} (max_upload_bytes).")
    try:
        receiver = _Receiver(boundary, staging, fields, limit_bytes)
        try:
            async for block in _blocks(request, silence_seconds):
                await run_in_threadpool(receiver.take, block)
            return receiver.finish()
        finally:
            receiver.close()
    except FormParserError as error:
        raise InvalidRequest(f"The upload is no valid form: {error}.") from error


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("Send the files as multipart/form-data, as `curl -F files=@model.onnx` does.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding("An upload is sent without Content-Encoding; pack the files as .tar.gz instead.")
    return boundary


async def _blocks(request: Request, silence_seconds: float) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a thread's while."""
    stream = request.stream()
    block = bytearray()
    try:
        while True:
            async with asyncio.timeout(silence_seconds):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            block += chunk
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
    except TimeoutError as error:
        raise DeadlineExceeded(f"Nothing of the upload came for {silence_seconds:g} s (body_seconds).") from error
    if block:
        yield bytes(block)
