"""One uploaded file out of a multipart/form-data body that is in memory."""

from __future__ import annotations

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from seaway.errors import InvalidRequest, PayloadTooLarge

# The library logs a warning for every broken form; the caller is told, and that is enough.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

MAX_PARTS = 32


class _Parts:
    """Collects the parts; one instance for each body."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.parts: list[tuple[bytes, bytearray]] = []
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._data = bytearray()

    def begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts; send one file.")
        self._disposition, self._data = b"", bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if len(self._data) > self._limit:
            raise PayloadTooLarge(f"The file in the form has more than {self._limit} bytes.")

    def end(self) -> None:
        self.parts.append((self._disposition, self._data))


def first_file(body: bytes | memoryview, content_type: str, *, limit: int) -> bytes:
    """The only part that has a filename. Raises InvalidRequest when there is none or another, or the form is broken."""
    parts = _Parts(limit)
    try:
        parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_part_data": parts.part_data,
                "on_part_end": parts.end,
            },
        )
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The form is broken: {error}.") from error
    files = [data for disposition, data in parts.parts if b"filename" in parse_options_header(disposition)[1]]
    if not files:
        raise InvalidRequest("The form holds no file; send one part with a filename.")
    if len(files) > 1:
        raise InvalidRequest(f"The form holds {len(files)} files; send one.")
    return bytes(files[0])


def _boundary(content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary") if content_type.isascii() else None
    if not boundary:
        raise InvalidRequest("The header Content-Type names no boundary; let the HTTP client set it.")
    return boundary
