"""A closed-loop load generator: N connections, each with one request under way, every end of a request on record."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

REFUSED, LOST = 0, -1
"""Pseudo-statuses: nobody accepted the connection; a request was sent and no answer came."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How one request ended."""

    began: float
    seconds: float
    status: int
    version: str
    body: Any
    question: int


@dataclass
class Load:
    """Sends `questions` (path, JSON body) in turn over `connections` until told to stop."""

    url: str
    questions: list[tuple[str, Any]]
    connections: int = 8
    timeout_seconds: float = 30.0
    headers: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    """Stop after so many requests altogether."""
    stop_when_refused: bool = False
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._next = 0
        self._lock = threading.Lock()
        self._bodies = [(path, json.dumps(body).encode()) for path, body in self.questions]
        self._threads = [threading.Thread(target=self._drive, daemon=True) for _ in range(self.connections)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(self.timeout_seconds + 5)
            assert not thread.is_alive(), "a request hangs"

    def wait_for(self, condition: Callable[[Load], bool], seconds: float = 30.0) -> None:
        """Until `condition` holds; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < deadline, f"waited {seconds} s; statuses so far: {self.statuses()}"
            self._stop.wait(0.01)

    def statuses(self) -> Counter[int]:
        return Counter(sample.status for sample in list(self.samples))

    def _take(self) -> int | None:
        with self._lock:
            if self._stop.is_set() or (self.limit is not None and self._next >= self.limit):
                return None
            self._next += 1
            return self._next - 1

    def _drive(self) -> None:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=self.timeout_seconds)
        with contextlib.closing(connection):
            while (number := self._take()) is not None:
                sample = self._ask(connection, number % len(self._bodies))
                self.samples.append(sample)
                if sample.status == REFUSED and self.stop_when_refused:
                    return

    def _ask(self, connection: http.client.HTTPConnection, question: int) -> Sample:
        path, body = self._bodies[question]
        began = time.monotonic()
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:
            connection.close()
            return Sample(began, time.monotonic() - began, REFUSED, "", None, question)
        try:
            connection.request("POST", path, body, self.headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return Sample(began, time.monotonic() - began, LOST, "", None, question)
        seconds = time.monotonic() - began
        return Sample(
            began, seconds, response.status, response.headers.get("Seaway-Version", ""), json.loads(raw), question
        )
