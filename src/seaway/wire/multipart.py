"""One uploaded file out of a multipart/form-data body that is in memory."""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from seaway.errors import InvalidRequest, PayloadTooLarge

MAX_PARTS = 32
_MAX_HEADER_BYTES = 8192


class _Parts:
    """Collects the parts; one instance for each body."""

    def __init__(self, body: memoryview, limit: int) -> None:
        self._body = body
        self._limit = limit
        self.parts: list[tuple[bytes, bytearray]] = []
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._data = bytearray()
        self._headers = 0

    def begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts; send one file.")
        self._disposition, self._data, self._headers = b"", bytearray(), 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._value += data[start:end]

    def _grow(self, size: int) -> None:
        self._headers += size
        if self._headers > _MAX_HEADER_BYTES:
            raise InvalidRequest("A part of the form has headers of more than 8 kB.")

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
    """The first part that has a filename. Raises InvalidRequest when there is none or the form is broken."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("The header Content-Type names no boundary; let the HTTP client set it.")
    parts = _Parts(memoryview(body), limit)
    try:
        parser = MultipartParser(
            boundary,
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
    except MultipartParseError as error:
        raise InvalidRequest(f"The form is broken: {error}.") from error
    for disposition, data in parts.parts:
        if b"filename" in parse_options_header(disposition)[1]:
            return bytes(data)
    raise InvalidRequest("The form holds no file; send one part with a filename.")
