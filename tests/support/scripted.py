"""An HTTP server that answers what a test tells it to and keeps what it was asked: for tests of clients."""

from __future__ import annotations

import json
import queue
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    port: int  # the client's end of the connection

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedServer:
    """Answers by method and path; several answers to the same question come in turn, the last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # the clients' ports of connections that have ended
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def answers(self, question: str, body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """`question` is like "GET /api/models"; a body that is bytes or text goes out as it is, all else as JSON."""
        method, path = question.split()
        self._answers[method, path].append(Answer(body, status, headers or {}))

    def _answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        scripted = self._answers[asked.method, asked.path]
        if not scripted:
            return Answer({"error": f"The test has no answer to {asked.method} {asked.path}."}, 404)
        return scripted.pop(0) if len(scripted) > 1 else scripted[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                answer = server._answer(Asked(self.command, parts.path, query, headers, body, self.client_address[1]))
                content = answer.body if isinstance(answer.body, bytes | str) else json.dumps(answer.body)
                raw = content if isinstance(content, bytes) else content.encode()
                self.send_response(answer.status)
                for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def finish(self) -> None:
                super().finish()
                server.ended.put(self.client_address[1])

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Tests look at `asked`."""

        return Handler
