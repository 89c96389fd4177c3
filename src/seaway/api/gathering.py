"""Connections gather in as few gateways as have room for them, and spread when these have none (ADR 13).

A gateway that is woken now and then, beside models that stream their weights through the caches, finds nothing in
them: ten times the time for the same work. One that does the work of two is woken less often and has more of it when
it is. So each gateway tells how busy it is in a mapped page; where little is to be done the others hand their
connections to the first, over a Unix socket and between two requests, and one that gets busy gives half of its own
away. Nobody asks and nobody waits, and a client notices nothing.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

log = structlog.get_logger()

TICK_SECONDS = 0.1
IDLE_TICK_SECONDS = 0.25
"""Of a gateway that does nothing."""
ROOM = 0.6
"""Part of a core that gateways may use together and still have room in one of them."""
FULL = 0.8
"""A gateway that uses so much of a core gives connections away."""
FEW = 3000
"""Requests a second, of all gateways together, up to which they gather: what comes more often finds its caches warm."""
MANY = 6000
"""Requests a second that are too many for one gateway if another has little to do."""
_LESS = 0.3
"""To one that uses so much less."""
_PATIENCE = 3
"""Looks in a row that must come to the same conclusion."""
_REST_TICKS = 10
"""After it has given connections away to have less to do, before it does so again."""
MAX_GATHERED = 256
"""Connections that a gateway may have when others gather theirs in it."""
_IDLE = 0.01
_FRESH_NS = 1_500_000_000
"""How long what a gateway has told is believed."""
_FULL_SECONDS = 0.1
_KEPT_DESCRIPTORS, _MANY_DESCRIPTORS = 16, 1 << 16
_CONNECTIONS, _LOAD, _SEEN, _ROOM, _RATE = range(5)
_WORDS = 8


class Told(msgspec.Struct, frozen=True):
    """What a gateway has told of itself."""

    connections: int
    load: float
    """Part of a core."""
    alive: bool = True
    room: int = _MANY_DESCRIPTORS
    """Connections that it has file descriptors for, beside those that it has."""
    rate: float = 0.0
    """Requests a second."""


class Move(msgspec.Struct, frozen=True):
    """Connections that a gateway should hand over."""

    target: int
    count: int
    spreads: bool = False
    """They are too many here; else too few."""


def next_move(own: int, told: Sequence[Told]) -> Move | None:
    """What gateway `own` should do for the sake of all; each decides for itself, from the same page.

    >>> busy, idle = Told(4, 0.9), Told(4, 0.1)
    >>> next_move(0, [busy, idle]), next_move(1, [busy, idle]), next_move(1, [idle, idle])
    (Move(target=1, count=2, spreads=True), None, Move(target=0, count=4, spreads=False))
    """
    mine = told[own]
    before = [gateway for gateway in range(own) if told[gateway].alive]
    others = [gateway for gateway in range(len(told)) if gateway != own and told[gateway].alive]
    total = sum(one.load for one in told if one.alive)
    rate = sum(one.rate for one in told if one.alive)
    if before and total <= ROOM * len(before) and rate <= FEW * len(before):
        target = min(before, key=lambda gateway: told[gateway].load)
        room = min(told[target].room, MAX_GATHERED - told[target].connections)
        # All others may be about to do the same.
        count = min(mine.connections, room // len(others))
        return Move(target, count) if count > 0 else None
    if others and mine.connections > 1 and (mine.load > FULL or mine.rate > MANY):
        target = min(others, key=lambda gateway: told[gateway].load)
        count = min(mine.connections // 2, told[target].room // len(others))
        if count > 0 and told[target].load < mine.load - _LESS:
            return Move(target, count, spreads=True)
    return None


def free_descriptors() -> int:
    """File descriptors that this process may still open, less some for whatever else comes up."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MANY_DESCRIPTORS if limit == resource.RLIM_INFINITY else min(limit, _MANY_DESCRIPTORS)
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    except OSError:
        return 0  # not Linux
    return max(0, limit - used - _KEPT_DESCRIPTORS - limit // 16)


class Census:
    """What gateways tell each other: a line of mapped words for each, which only that gateway writes."""

    def __init__(self, path: Path, *, index: int, gateways: int) -> None:
        size = 8 * _WORDS * gateways
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._at = _WORDS * index
        self.leave()
        self.set(0)

    def set(self, connections: int) -> None:
        """This gateway has so many connections."""
        self._words[self._at + _CONNECTIONS] = connections

    def tell(self, load: float, rate: float, room: int, now_ns: int) -> None:
        """It uses this part of a core for so many requests a second, and takes so many connections more."""
        self._words[self._at + _LOAD] = int(load * 1000)
        self._words[self._at + _RATE] = int(rate)
        self._words[self._at + _ROOM] = room
        self._words[self._at + _SEEN] = now_ns

    def leave(self) -> None:
        """It takes no connections from others any more."""
        self._words[self._at + _SEEN] = 0

    @property
    def has_most(self) -> bool:
        """Whether another gateway has fewer connections than this one."""
        return self._words[self._at] > min(self._words[::_WORDS])

    def told(self, now_ns: int) -> list[Told]:
        words = self._words
        return [
            Told(
                words[at + _CONNECTIONS], words[at + _LOAD] / 1000, now_ns < words[at + _SEEN] + _FRESH_NS,
                words[at + _ROOM], words[at + _RATE],
            )
            for at in range(0, len(words), _WORDS)
        ]  # fmt: skip


class Movable(Protocol):
    """A connection that can be handed over."""

    def hand_over(self, send: Callable[[int], bool]) -> bool:
        """Give a copy of its descriptor to `send`, if nothing is under way on it, and forget it when that is true.

        Whether it was handed over.
        """
        ...


class Gathering:
    """One gateway's part. Lives on its event loop."""

    def __init__(
        self,
        census: Census,
        directory: Path,
        *,
        index: int,
        connections: Callable[[], Sequence[Movable]],
        answered: Callable[[], int],
        arrived: Callable[[socket.socket], None],
    ) -> None:
        """`answered` tells how many requests were answered so far; `arrived` takes a connection that was handed over.

        Raises OSError.
        """
        self._census = census
        self._directory = directory
        self._index = index
        self._connections = connections
        self._answered = answered
        self._arrived = arrived
        self.move: Move | None = None
        """What is to be done now. Whoever ends a request then calls `offer`."""
        self._left = 0
        self._same = 0
        self._wanted: Move | None = None
        self._rest = 0
        self._promised = self._accepts = 0
        self._measured = (time.monotonic_ns(), time.thread_time_ns(), answered())
        path = self._path(index)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._listen()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def leave(self) -> None:
        """Take no more connections and give none away. What was sent before still arrives, in `close` at the latest."""
        self._census.leave()
        self._path(self._index).unlink(missing_ok=True)
        self._timer.cancel()
        self.move = None

    def close(self) -> None:
        while self._receive():
            pass
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def may_accept(self) -> bool:
        """Whether this gateway should accept a connection; False: it has promised its last descriptors to the others,
        one of which has more.
        """
        if self._accepts <= 0:
            self._accepts = free_descriptors() - self._promised
            if self._accepts <= 0:
                told = self._census.told(time.monotonic_ns())
                return not any(one.alive and one.room for other, one in enumerate(told) if other != self._index)
        self._accepts -= 1
        return True

    def offer(self, connection: Movable) -> None:
        """It has been answered, and may be handed over when the answer is on its way."""
        self._loop.call_soon(self._hand_over, connection)

    # ------------------------------------------------------------------ deciding

    def _tick(self) -> None:
        now, cpu, answered = time.monotonic_ns(), time.thread_time_ns(), self._answered()
        began, cpu_began, answered_before = self._measured
        self._measured = now, cpu, answered
        took = max(1, now - began)
        load = (cpu - cpu_began) / took
        self._timer = self._loop.call_later(TICK_SECONDS if load > _IDLE else IDLE_TICK_SECONDS, self._tick)
        self.look(load, (answered - answered_before) * 1e9 / took, now)

    def look(self, load: float, rate: float, now_ns: int) -> None:
        """Tell the others that this gateway uses `load` of a core for `rate` requests a second, and act."""
        connections = self._connections()
        self._census.set(len(connections))
        # The other half is for connections that it accepts itself.
        self._promised = free_descriptors() // 2
        self._census.tell(load, rate, self._promised, now_ns)
        self.move = None
        self._rest = max(0, self._rest - 1)
        self._decide(next_move(self._index, self._census.told(now_ns)))
        if self.move is not None:
            for connection in connections:
                self._hand_over(connection)

    def _decide(self, wanted: Move | None) -> None:
        same = wanted is not None and self._wanted is not None and wanted.target == self._wanted.target
        self._same, self._wanted = (self._same + 1 if same else 0), wanted
        if wanted is not None and self._same + 1 >= _PATIENCE and not (wanted.spreads and self._rest):
            self.move, self._left = wanted, wanted.count
            if wanted.spreads:
                self._rest = _REST_TICKS

    # ------------------------------------------------------------------ moving

    def _path(self, gateway: int) -> Path:
        return self._directory / f"gateway-{gateway}.sock"

    def _hand_over(self, connection: Movable) -> None:
        move = self.move
        if move is not None and connection.hand_over(self._send):
            self._left -= 1
            if not self._left:
                self.move = None

    def _send(self, descriptor: int) -> bool:
        move = self.move
        if move is None:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
        try:
            self._socket.sendmsg([b"c"], rights, 0, str(self._path(move.target)))
        except OSError as error:  # it has left, or doesn't read
            log.debug("gateway.cannot_hand_over", target=move.target, reason=str(error))
            self.move = None
            return False
        return True

    def _receive(self) -> bool:
        """Take a connection that was handed over, if there is one."""
        try:
            # The kernel closes a connection for which no descriptor is left. In the socket it is safe.
            os.close(os.dup(self._socket.fileno()))
            _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            log.debug("gateway.cannot_take_connection", reason=error.strerror)
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_FULL_SECONDS, self._listen)
            return False
        for descriptor in descriptors:
            self._arrived(socket.socket(fileno=descriptor))
        return True

    def _listen(self) -> None:
        if self._socket.fileno() != -1:
            self._loop.add_reader(self._socket, self._receive)
