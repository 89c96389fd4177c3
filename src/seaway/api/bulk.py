"""A large body on its way in: received straight to where it will be read, with no copy in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from seaway.api.heads import Head
from seaway.serving.arena import Slot

if TYPE_CHECKING:
    from seaway.api.lane import LaneProtocol


class Bulk(asyncio.BufferedProtocol):
    """Has the connection while a large body comes in, so that the kernel writes it to its place."""

    def __init__(self, lane: LaneProtocol, head: Head, body: memoryview, filled: int, slot: Slot | None) -> None:
        self.head = head
        self.body = body
        self.slot = slot
        self._lane = lane
        self._filled = filled

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._lane.active = True
        if self._filled == len(self.body):
            self._lane.end_large(self)

    def eof_received(self) -> bool:
        return self._lane.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lane.connection_lost(exc)

    def pause_writing(self) -> None:
        self._lane.pause_writing()

    def resume_writing(self) -> None:
        self._lane.resume_writing()
