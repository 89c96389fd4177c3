"""The HTTP server that Seaway is held against: uvicorn with its own parser and an application that takes everything.

`python -m support.reference_http` (from tests/) listens on a free port and prints its address.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TESTS = Path(__file__).parents[1]


class ReferenceServer:
    """The reference as a process of its own, with one event loop, as a context manager."""

    def __init__(self) -> None:
        self.address = ("127.0.0.1", 0)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.reference_http"],
            cwd=_TESTS, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"The reference ended with status {self._process.wait(5)}."
        self.address = ("127.0.0.1", int(line))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


async def accept_everything(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers with what it understood."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    answer = json.dumps({"method": scope["method"], "path": scope["path"], "length": len(body)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@dataclass(frozen=True, slots=True)
class Message:
    """One complete request as httptools reads it."""

    method: str
    path: str
    body: bytes


@dataclass
class Reading:
    """What httptools makes of a stream: complete requests, and how it ends."""

    messages: list[Message] = field(default_factory=list)
    heads: int = 0
    """How many requests had a complete head; one that needs no body may be answered before its body is there."""
    end: str = "idle"
    """idle, inside a request, error, or close (asked for by the last request)."""

    @property
    def then(self) -> str:
        """What a client does at the end to learn how the server took it (rawhttp.exchange)."""
        return {"idle": "probe", "inside": "leave", "error": "wait", "close": "wait"}[self.end]


class _Listener:
    """httptools' callbacks, doing what uvicorn's protocol does in them, as far as that can refuse a request."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._url = b""
        self._body = bytearray()
        self._method = self._path = ""
        self._keep = True

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = bytearray()
        if self.reading.end != "close":
            self.reading.end = "inside"

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        self._method = self.parser.get_method().decode("ascii")
        self._path = urllib.parse.unquote(httptools.parse_url(self._url).path.decode("ascii"))
        if self.reading.end != "close":
            self.reading.heads += 1
        self._keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self.reading.end == "close":
            return
        self.reading.messages.append(Message(self._method, self._path, bytes(self._body)))
        self.reading.end = "idle" if self._keep else "close"


def read_stream(segments: Iterable[bytes]) -> Reading:
    """How the reference's parser reads these bytes; the server may answer less, but never more."""
    listener = _Listener()
    for part in segments:
        try:
            listener.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            continue  # uvicorn goes on as if nothing had happened; so does its parser
        except httptools.HttpParserError:
            if listener.reading.end != "close":
                listener.reading.end = "error"
            break
    return listener.reading


def main() -> None:
    config = uvicorn.Config(
        accept_everything, port=0, http=HttpToolsProtocol, loop="uvloop", ws="none", lifespan="off",
        log_config=None, access_log=False, timeout_keep_alive=75,
    )  # fmt: skip
    listener = config.bind_socket()
    listener.listen(2048)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
