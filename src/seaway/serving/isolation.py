"""Isolation: cores that slow models leave to the gateways while these run fast models themselves (ADR 8).

A core that a run of tens of milliseconds has is given to somebody else only after some milliseconds. A model of a few
microseconds that waits for that is a thousand times slower. So while gateways run models and slow ones are busy, each
keep to cores of their own; when either stops, both have all cores again.

Everybody finds out alone, from one mapped page and the same pure function; nobody asks and nobody waits.
"""

from __future__ import annotations

import asyncio
import math
import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger()

ACTIVITY_PAGE = "activity.page"
"""Its name in the run directory."""
SLOW_RUN_NS = 500_000
"""Models whose runs take so long leave cores to the gateways."""
_EVERY = 8
"""Inline requests between two notes in the page, each of which tells that the gateway is at it."""
_FRESH_NS = 200_000_000
"""How long a note is believed. With `_EVERY`: a gateway that runs 40 requests a second has a core reserved."""
_TICK_SECONDS = 0.05
_HEADROOM = 1.25
_NOTED, _DEMAND, _MODEL, _CHANGED, _SEEN, _RUNNING, _LOADING, _BLAMED = range(8)
_REVISIONS = 32
"""So many a gateway can blame for deaths, each with how many and when the last one was."""
_REVISION, _DEATHS, _DIED_AT, _BLAME_WORDS = range(4)
_WORDS = _BLAMED + _BLAME_WORDS * _REVISIONS
_TOGETHER_NS = 24 * 3600 * 1_000_000_000
"""Deaths that are further apart don't count together."""


def reserved_cores(demand: float, cores: int) -> int:
    """How many of `cores` gateways have to themselves when they use `demand` of them; never more than half.

    >>> reserved_cores(0.1, 2), reserved_cores(1.0, 2), reserved_cores(1.0, 8), reserved_cores(0.1, 1)
    (1, 1, 2, 0)
    """
    return min(max(1, math.ceil(demand * _HEADROOM)), cores // 2)


class ActivityPage:
    """What gateways tell each other and workers, each in a line of words that it alone writes.

    When it last ran fast models and how much of a core it used; what it was last asked for and since when for that
    alone; the revision that it runs at this moment, which its successor finds should it die of that; and in which
    revisions those before it have died.
    """

    def __init__(self, path: Path, gateways: int | None = None) -> None:
        """`gateways`: make the page if there is none, as gateways do. Raises OSError."""
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if gateways else 0), 0o600)
        try:
            if gateways:
                os.ftruncate(fd, 8 * _WORDS * gateways)
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")

    def note(self, gateway: int, now_ns: int) -> None:
        """This gateway runs models. Called in that gateway only."""
        self._words[_WORDS * gateway + _NOTED] = now_ns

    def set_demand(self, gateway: int, share: float) -> None:
        """The part of a core that this gateway uses. Called in that gateway only."""
        self._words[_WORDS * gateway + _DEMAND] = int(share * 1000)

    def reserved(self, now_ns: int, cores: int) -> int:
        """How many cores belong to gateways at this moment; 0 while none of them runs models."""
        demand, active = 0, False
        words = self._words
        for at in range(0, len(words), _WORDS):
            if now_ns < words[at + _NOTED] + _FRESH_NS:
                active = True
                demand += words[at + _DEMAND]
        return reserved_cores(demand / 1000, cores) if active else 0

    def tell(self, gateway: int, model: int, changed_ns: int, now_ns: int) -> None:
        """Since `changed_ns` this gateway was asked for this model (a number) only. Called in that gateway only."""
        at = _WORDS * gateway
        self._words[at + _MODEL], self._words[at + _CHANGED], self._words[at + _SEEN] = model, changed_ns, now_ns

    def others(self, gateway: int) -> list[tuple[int, int, int]]:
        """What all but one gateway have told: model, since when, and when they said so."""
        words = self._words
        return [
            (words[at + _MODEL], words[at + _CHANGED], words[at + _SEEN])
            for at in range(0, len(words), _WORDS)
            if at != _WORDS * gateway
        ]

    def set_running(self, gateway: int, revision: int) -> None:
        """This gateway runs a version now; 0: no longer. Called in that gateway only."""
        self._words[_WORDS * gateway + _RUNNING] = revision

    def running(self, gateway: int) -> memoryview:
        """The one word that `set_running` writes, for whom a call for each run costs too much."""
        at = _WORDS * gateway + _RUNNING
        return self._words[at : at + 1]

    def set_loading(self, gateway: int, revision: int) -> None:
        """This gateway loads a version now; 0: no longer. Called in that gateway only."""
        self._words[_WORDS * gateway + _LOADING] = revision

    def begin_life(self, gateway: int, now_ns: int) -> int:
        """Count a death against the revision that the last gateway of this number was running or loading; 0: none.

        Called in that gateway only.
        """
        at = _WORDS * gateway
        words = self._words
        died_in = words[at + _RUNNING] or words[at + _LOADING]
        words[at + _RUNNING] = words[at + _LOADING] = 0
        if not died_in:
            return 0
        blames = self._blames(gateway)
        entry = next((one for one in blames if words[one + _REVISION] == died_in), None)
        if entry is None:
            entry = next((one for one in blames if not self._recent(one, now_ns)), None)
        # Where there is no room for one more, `deaths` tells: nothing runs in a gateway any more.
        if entry is not None:
            again = words[entry + _REVISION] == died_in and self._recent(entry, now_ns)
            words[entry + _DEATHS] = words[entry + _DEATHS] + 1 if again else 1
            words[entry + _REVISION], words[entry + _DIED_AT] = died_in, now_ns
        return died_in

    def deaths(self, revision: int, now_ns: int) -> int:
        """Of gateways in a run of this revision, within a day; of every one where some died in ever so many others."""
        total = 0
        for gateway in range(len(self._words) // _WORDS):
            counted = [one for one in self._blames(gateway) if self._recent(one, now_ns)]
            if len(counted) == _REVISIONS:
                return _REVISIONS
            total += sum(self._words[one + _DEATHS] for one in counted if self._words[one + _REVISION] == revision)
        return total

    def _blames(self, gateway: int) -> range:
        """Where this gateway's entries begin."""
        first = _WORDS * gateway + _BLAMED
        return range(first, first + _BLAME_WORDS * _REVISIONS, _BLAME_WORDS)

    def _recent(self, entry: int, now_ns: int) -> bool:
        return bool(self._words[entry + _REVISION]) and now_ns < self._words[entry + _DIED_AT] + _TOGETHER_NS


def confine(thread_id: int, cpus: Sequence[int]) -> None:
    """Let a thread of this process (0: the calling one) run on these cores only."""
    try:
        os.sched_setaffinity(thread_id, cpus)
    except OSError as error:
        log.warning("isolation.cannot_confine", reason=error.strerror)


class GatewayIsolation:
    """A gateway's part: it says when it runs models, and keeps to the reserved cores while slow models are busy."""

    def __init__(self, page: ActivityPage, gateway: int, cpus: Sequence[int], slow_work: Callable[[], bool]) -> None:
        """`slow_work` tells whether a slow model is busy on this machine."""
        self._page = page
        self._gateway = gateway
        self._cpus = tuple(cpus)
        self._slow_work = slow_work
        self._countdown = _EVERY
        self._noted_ns = 0
        self._ticks: asyncio.TimerHandle | None = None
        self._allowed = self._cpus
        self._measured = (0, 0)
        self._slow_until_ns = 0

    @property
    def ticking(self) -> bool:
        """Whether it still looks who is busy; it does until a moment after the last request."""
        return self._ticks is not None

    def ran(self, now_ns: int) -> None:
        """A model ran here. Called by the event loop, for every such request."""
        self._countdown -= 1
        if self._countdown:
            return
        self._countdown = _EVERY
        self._noted_ns = now_ns
        self._page.note(self._gateway, now_ns)
        if self._ticks is None:
            self._measured = (now_ns, time.thread_time_ns())
            self._ticks = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now, cpu = time.monotonic_ns(), time.thread_time_ns()
        began, cpu_began = self._measured
        self._measured = (now, cpu)
        self._page.set_demand(self._gateway, (cpu - cpu_began) / (now - began))
        if self._slow_work():
            self._slow_until_ns = now + _FRESH_NS
        active = now < self._noted_ns + _FRESH_NS
        reserved = self._page.reserved(now, len(self._cpus)) if active and now < self._slow_until_ns else 0
        allowed = self._cpus[:reserved] or self._cpus
        if allowed != self._allowed:
            self._allowed = allowed
            confine(0, allowed)
        self._ticks = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick) if active else None


class WorkerIsolation:
    """A worker's part: its engines leave the reserved cores while gateways need them."""

    def __init__(self, page: ActivityPage, cpus: Sequence[int]) -> None:
        """`cpus`: all cores of this server."""
        self._page = page
        self._cpus = tuple(cpus)
        self._homes: dict[int, tuple[int, ...]] = {}
        self._reserved: int | None = None

    def add(self, thread_id: int, home: int | None) -> None:
        """An engine's thread, and the core it is bound to otherwise (None: to none). Called in that thread."""
        self._homes[thread_id] = self._cpus if home is None else (home,)
        self._reserved = None

    def update(self, now_ns: int, run_ns: int) -> None:
        """Move engines where they should be now. Called in the worker's I/O thread; `run_ns`: what a run takes."""
        reserved = self._page.reserved(now_ns, len(self._cpus)) if run_ns >= SLOW_RUN_NS else 0
        if reserved == self._reserved:
            return
        self._reserved = reserved
        free = set(self._cpus[reserved:])
        for thread_id, home in list(self._homes.items()):
            confine(thread_id, sorted(free & set(home) or free))
