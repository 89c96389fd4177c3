"""The heads of plain requests: what the fast lane takes from a connection, and remembers by its bytes.

Much narrower than HTTP. What `HeadReader.read` doesn't know goes to uvicorn's parser, which decides what it is.
"""

from __future__ import annotations

import re

import msgspec

from seaway.api.edge import admits
from seaway.api.infer import read_header_length, read_timeout
from seaway.config import Settings
from seaway.errors import InvalidRequest
from seaway.serving.flight import InferCall, runs_inline

MAX_HEAD_BYTES = 8192
MAX_REMEMBERED = 2048
_LONG_HEAD = 1024
"""Longer heads are not remembered, since many of them would take too much memory; nor are those with an id in them."""

_NAME = rb"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_HEAD = re.compile(
    rb"POST (?:/predict/(?P<predict>" + _NAME + rb")(?:\?version=(?P<query>\d{1,9}))?"
    rb"|/v2/models/(?P<infer>" + _NAME + rb")(?:/versions/(?P<path>\d{1,9}))?/infer) HTTP/1\.1\r\n"
    rb"(?P<headers>(?:[A-Za-z0-9-]{1,64}: ?[!-~](?:[ -~]{0,4094}[!-~])?\r\n){1,64})\r\n"
)
_HEADER = re.compile(rb"([A-Za-z0-9-]+): ?([^\r]*)\r\n")
_LENGTH = re.compile(rb"\d{1,15}")
_ORDINARY = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te", b"http2-settings", b"proxy-connection"}
)
"""A request with one of these is not plain."""


class Head(msgspec.Struct):
    """What a plain request's head says."""

    call: InferCall
    """With an empty body."""
    length: int
    traceparent: str | None
    request_id: str | None
    plain: bool
    """False for what never runs inline, whatever its size."""


class HeadReader:
    """Reads heads and remembers them by their bytes, so that a client that repeats itself is read once."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._limit = settings.max_body_bytes
        self._known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """The head, `\\r\\n\\r\\n` included; None when it isn't plain, and then says nothing about why."""
        known = self._known.get(head)
        if known is not None:
            return known
        found = self._parse(head)
        if found is not None and len(head) <= _LONG_HEAD and found.traceparent is None and found.request_id is None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[head] = found
        return found

    def _parse(self, head: bytes) -> Head | None:
        match = _HEAD.fullmatch(head)
        if match is None:
            return None
        listed = [(name.lower(), value) for name, value in _HEADER.findall(match["headers"])]
        headers = dict(listed)
        length = headers.get(b"content-length", b"")
        if (
            len(headers) != len(listed)  # something is said twice
            or not _LENGTH.fullmatch(length)
            or headers.keys() & _ORDINARY
            or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or (self._key is not None and not admits(listed, self._key))
            or int(length) > self._limit
        ):
            return None
        return self._describe(match, {name.decode(): value.decode() for name, value in headers.items()}, int(length))

    def _describe(self, match: re.Match[bytes], headers: dict[str, str], length: int) -> Head | None:
        protocol = "predict" if match["predict"] else "infer"
        version = match["query"] or match["path"]
        encoding = headers.get("content-encoding", "")
        try:
            call = InferCall(
                (match["predict"] or match["infer"]).decode(), version.decode() if version else None, protocol, b"",
                timeout_seconds=read_timeout(headers.get("x-request-timeout-seconds")),
                key=headers.get("seaway-key"),
                header_length=read_header_length(
                    headers.get("inference-header-content-length"), length if encoding in {"", "identity"} else None
                ),
                content_type=headers.get("content-type", ""),
                content_encoding=encoding,
                accept_encoding=headers.get("accept-encoding", "") if protocol == "infer" else "",
            )  # fmt: skip
        except InvalidRequest:
            return None
        return Head(call, length, headers.get("traceparent"), headers.get("x-request-id"), runs_inline(call))
