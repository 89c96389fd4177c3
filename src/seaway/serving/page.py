"""A worker's shared page: how much each gateway has sent it, and which request each engine runs.

Every gateway and control reads it, also after the worker's death. 8-byte words, each with one writer: queued, running
and average run time in ns (worker); then for each gateway its unanswered requests (that gateway; the worker clears the
word when the gateway's connection ends); then two words for each engine, and for each request that is in a batch
(worker): gateway index + 1 (0: idle) and request id. The id is stored before the index and the index cleared first, so
a reader never takes a half-written slot for a running request.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

MAX_GATEWAYS = 64
BATCH_SLOTS = 4096
"""Requests of the batches that run; of more, the last are not noted."""
_QUEUED, _RUNNING, _RUN_NS, _SENT = 0, 1, 2, 8
_FIRST = _SENT + MAX_GATEWAYS


class WorkerPage:
    """One worker's page; `create` in the worker, `attach` in a gateway."""

    def __init__(self, path: Path, *, create: bool, engines: int) -> None:
        size = 8 * (_FIRST + 2 * (engines + BATCH_SLOTS))
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)
        fd = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._engines = engines
        self._batched = 0

    @classmethod
    def create(cls, path: Path, *, engines: int) -> WorkerPage:
        """A new, empty page. Called in the worker."""
        return cls(path, create=True, engines=engines)

    @classmethod
    def attach(cls, path: Path, *, engines: int) -> WorkerPage:
        """An existing worker's page. Called in gateways and control; raises OSError when the worker never made it."""
        return cls(path, create=False, engines=engines)

    def close(self) -> None:
        self._words.release()
        self._map.close()

    @property
    def load(self) -> int:
        """Requests that wait or run in the worker, or are on their way to it, from all gateways."""
        return sum(self._words[_SENT:_FIRST])

    @property
    def busy(self) -> bool:
        """Whether the worker has anything to do, as it knows itself."""
        return self._words[_QUEUED] + self._words[_RUNNING] > 0

    def set_sent(self, gateway: int, unanswered: int) -> None:
        """Store how many requests of `gateway` are unanswered. Called in that gateway, and by the worker with 0."""
        self._words[_SENT + gateway] = unanswered

    @property
    def run_ns(self) -> int:
        """What a run takes on average."""
        return self._words[_RUN_NS]

    @property
    def queued(self) -> int:
        return self._words[_QUEUED]

    @property
    def busy_engines(self) -> int:
        return sum(1 for engine in range(self._engines) if self._words[_FIRST + 2 * engine])

    def publish(self, *, queued: int, running: int, run_ns: int) -> None:
        """Store the worker's load. Called in the worker."""
        self._words[_QUEUED] = queued
        self._words[_RUNNING] = running
        self._words[_RUN_NS] = run_ns

    def begin(self, engine: int, gateway: int, request_id: int) -> None:
        """Note that `engine` runs a request. Called in the worker's engine thread."""
        at = _FIRST + 2 * engine
        self._words[at + 1] = request_id
        self._words[at] = gateway + 1

    def end(self, engine: int) -> None:
        """Note that `engine` is idle. Called in the worker's engine thread."""
        self._words[_FIRST + 2 * engine] = 0

    def set_batches(self, requests: Sequence[tuple[int, int]]) -> None:
        """Note the requests that are in batches now: gateway and request id. Called in the worker, one at a time."""
        first = _FIRST + 2 * self._engines
        noted = min(len(requests), BATCH_SLOTS)
        words = self._words
        for at, (gateway, request_id) in zip(range(first, first + 2 * noted, 2), requests, strict=False):
            words[at] = 0
            words[at + 1] = request_id
            words[at] = gateway + 1
        for at in range(first + 2 * noted, first + 2 * self._batched, 2):
            words[at] = 0
        self._batched = noted

    def running(self, gateway: int) -> set[int]:
        """Ids of the requests of `gateway` that engines run, or ran when the worker died."""
        words = self._words
        slots = range(_FIRST, _FIRST + 2 * (self._engines + BATCH_SLOTS), 2)
        return {words[at + 1] for at in slots if words[at] == gateway + 1}
