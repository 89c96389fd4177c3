"""Memory that a gateway shares with the workers of one version, for bodies that would cost more to send than to run.

The gateway receives a large body straight into a slot, the worker reads it there, and writes its answer over it. An
arena belongs to one version in one gateway: a worker never sees what other versions are asked. It is a file without a
name (memfd), so that the kernel takes it back whatever happens to the processes.
"""

from __future__ import annotations

import mmap
import os

SLOT_BYTES = 1 << 20
SLOTS = 64
MAX_LENT_BYTES = 16 << 20
MIN_LENT_BYTES = 48 << 10
"""Below this size a socket is as fast (benchmarks/micro/hop.py)."""
_ALIGNMENT = 64


class Slot:
    """Some contiguous part of an arena, lent to one request."""

    __slots__ = ("_count", "_first", "arena", "body", "offset", "room")

    def __init__(self, arena: Arena, first: int, count: int, shift: int, n_bytes: int) -> None:
        self.arena = arena
        self._first = first
        self._count = count
        begin = first * SLOT_BYTES
        self.offset = begin + shift
        self.room = arena.view[begin : begin + count * SLOT_BYTES]
        """All of it: where an answer goes."""
        self.body = arena.view[self.offset : self.offset + n_bytes]

    def release(self) -> None:
        """Give it back; call once, when nobody reads or writes it any more."""
        self.arena.release(self._first, self._count)


class Arena:
    """The gateway's side. Used by the event loop's thread only."""

    def __init__(self) -> None:
        """Raises OSError where the system has no such files."""
        if not hasattr(os, "memfd_create"):
            raise OSError("no memfd")
        self.n_bytes = SLOTS * SLOT_BYTES
        self._fd = os.memfd_create("seaway-arena")
        os.ftruncate(self._fd, self.n_bytes)
        self.view = memoryview(mmap.mmap(self._fd, self.n_bytes))
        self._free = [True] * SLOTS

    @property
    def path(self) -> str:
        """Where another process of the same user finds the file."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def __del__(self) -> None:
        os.close(self._fd)

    def lend(self, n_bytes: int, head_bytes: int) -> Slot | None:
        """A slot for a body of `n_bytes`, aligned after its first `head_bytes`; None when there is no room."""
        shift = -head_bytes % _ALIGNMENT
        count = -(-(n_bytes + shift) // SLOT_BYTES)
        # The first that fits: its pages were touched before.
        run = 0
        for index, free in enumerate(self._free):
            run = run + 1 if free else 0
            if run == count:
                first = index - count + 1
                self._free[first : index + 1] = [False] * count
                return Slot(self, first, count, shift, n_bytes)
        return None

    def release(self, first: int, count: int) -> None:
        self._free[first : first + count] = [True] * count


class Window:
    """A worker's view of a gateway's arena."""

    def __init__(self, path: str, n_bytes: int) -> None:
        """Raises OSError when the file can't be opened, ValueError when it isn't that large."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._view = memoryview(mmap.mmap(fd, n_bytes))
        finally:
            os.close(fd)

    def body(self, offset: int, n_bytes: int) -> memoryview:
        """Raises ValueError when it isn't inside."""
        if offset + n_bytes > len(self._view):
            raise ValueError("outside the arena")
        return self._view[offset : offset + n_bytes]

    def room(self, offset: int, n_bytes: int) -> memoryview:
        """The slots that hold a body: where its answer may go."""
        begin = offset // SLOT_BYTES * SLOT_BYTES
        return self._view[begin : -(-(offset + n_bytes) // SLOT_BYTES) * SLOT_BYTES]
