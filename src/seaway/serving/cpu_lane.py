"""The CPU lane of a worker: one engine thread a core, each of which does everything for one request at a time.

Decode, validate, preprocess, run, postprocess, encode, send: the hop back needs no other thread, unless a socket is
full.

A lane with a single engine and a fast model is *solo*: the worker's main thread is the engine too, because handing a
request of 10 µs to another thread costs more than the request. The worker looks at its sockets between two turns, and
a watchdog thread does that in its place during a run that overstays.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from seaway.errors import MORE_TIME, Cancelled, DeadlineExceeded, SeawayError
from seaway.runtimes.base import RunHandle
from seaway.serving.lane import Entry, Owner, Timing, moving_average, overloaded
from seaway.serving.predictor import Predictor

log = structlog.get_logger()

_TICK_SECONDS = 0.05
_IDLE_TICKS = 40
_FAST_NS = 10_000_000
_TURN_NS = 3_000_000
"""How long a turn of a solo lane is."""
_TURN_REQUESTS = 8
"""Of how many requests it is at most, whose answers leave together."""


class Watched(Protocol):
    """What an engine is busy with, as the lane watches over it."""

    handle: RunHandle
    deadline_ns: int

    @property
    def cancelled(self) -> bool:
        """Nobody waits for it any more."""
        ...


class StoppableEntry(Entry, Protocol):
    """A request whose run can be stopped."""

    handle: RunHandle
    """Of this request alone: ending its run can't end the next one of the same engine."""
    doubtful: bool
    """Its caller may have left: it runs when no other waits."""


@dataclass(slots=True, eq=False)
class Engine:
    """What an engine thread runs now, and since when that should have ended."""

    number: int
    current: Watched | None = None
    stopping: Watched | None = None
    """What `terminated_ns` is about: when this run was told to end."""
    terminated_ns: int = 0


class EngineOwner(Owner, Protocol):
    """What the owner of engines is told besides."""

    def bind(self, engine: int) -> None:
        """Give the calling thread, which is this engine, its core."""
        ...

    def began(self, engine: int, entry: Any) -> None:
        """It runs `entry`."""
        ...

    def ended(self, engine: int) -> None:
        """It is idle."""
        ...

    def stand_in(self, still: Callable[[], bool]) -> None:
        """Do the main thread's other work, if `still` is true then. Called while that thread runs a model."""
        ...


class CpuLane:
    """Serves one version. `start` once; `submit`, `cancel` and `watch` are for the I/O thread."""

    def __init__(self, predictor: Predictor, *, engines: int, max_queue_size: int, owner: EngineOwner) -> None:
        self._predictor = predictor
        self._owner = owner
        self._max_queue_size = max_queue_size
        self._queue: queue.SimpleQueue[StoppableEntry | None] = queue.SimpleQueue()
        self._doubtful: deque[StoppableEntry] = deque()
        """Those that were their turn and were put off."""
        self._engines = [Engine(number) for number in range(engines)]
        self._something_runs = threading.Event()
        self._bound = False
        self.lost = ""
        """Why it answers nothing more, if so: the process has to end."""
        self.run_ns = 0
        """What a request takes on average, without its wait."""
        self.solo = engines == 1 and _is_fast(predictor)
        """The main thread is the engine; it calls `work_through` while something waits."""

    def start(self) -> None:
        if self.solo:
            targets: list[tuple[str, Callable[[Engine], None]]] = [("watchdog", self._watch_solo)]
        else:
            targets = [(f"engine-{engine.number}", self._work) for engine in self._engines]
        for (name, target), engine in zip(targets, self._engines, strict=True):
            threading.Thread(target=self._guarded, args=(target, engine), name=name, daemon=True).start()

    def _guarded(self, target: Callable[[Engine], None], engine: Engine) -> None:
        """A lane with an engine less would have fewer cores than it says, and with none answer nothing."""
        try:
            target(engine)
        except BaseException as error:
            log.exception("lane.engine_died", engine=engine.number)
            self.lost = f"An engine died: {type(error).__name__}."

    def close(self) -> None:
        """Let the threads end when they have served what waits."""
        for _ in self._engines:
            self._queue.put(None)

    # ------------------------------------------------------------------ the I/O thread

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._queue.qsize() + len(self._doubtful)

    @property
    def running(self) -> int:
        """Requests that run."""
        return sum(1 for engine in self._engines if engine.current is not None)

    @property
    def busy(self) -> bool:
        """True while a request has not ended."""
        return self.waiting > 0 or self.running > 0

    def refusal(self, deadline_ns: int, now_ns: int) -> SeawayError | None:
        """Why a request that comes now can't wait here, if so."""
        waiting = self._queue.qsize()  # the doubtful let everybody else go first
        wait_ns = (waiting + 1) * self.run_ns // len(self._engines)
        return overloaded(waiting, max_waiting=self._max_queue_size, wait_ns=wait_ns, left_ns=deadline_ns - now_ns)

    def submit(self, entry: StoppableEntry) -> None:
        """Take a request, which ends with one call of `answered` or `refused`."""
        self._queue.put(entry)

    def cancel(self, entry: StoppableEntry) -> None:
        """The caller has left."""
        entry.cancelled = True
        try:
            self._doubtful.remove(entry)
        except ValueError:
            return  # it runs, or waits for its turn, which ends it
        self._owner.refused(entry, Cancelled("The caller has left."))

    def watch(self, now_ns: int) -> int:
        """Stop runs that nobody waits for any more.

        For how long the oldest such run has ignored that, in nanoseconds.
        """
        ignored = 0
        for engine in self._engines:
            entry = engine.current
            if entry is None or not (entry.cancelled or now_ns > entry.deadline_ns):
                continue
            if engine.stopping is not entry:
                engine.stopping, engine.terminated_ns = entry, now_ns
            entry.handle.terminate()
            ignored = max(ignored, now_ns - engine.terminated_ns)
        return ignored

    # ------------------------------------------------------------------ engines

    def _work(self, engine: Engine) -> None:
        """Take requests until told to stop. Called in an engine thread."""
        self._owner.bind(engine.number)
        while True:
            try:
                entry = self._next()
            except queue.Empty:
                entry = self._queue.get()
            if entry is None:
                return
            self._serve(engine, entry)

    def _next(self) -> StoppableEntry | None:
        """Whose turn it is; None: this engine is to end. Raises queue.Empty."""
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                try:
                    return self._doubtful.popleft()
                except IndexError:
                    raise queue.Empty from None
            if entry is None and self._doubtful:
                self._queue.put(None)
                with contextlib.suppress(IndexError):  # another engine has it
                    return self._doubtful.popleft()
                continue
            if entry is None or not entry.doubtful:
                return entry
            self._doubtful.append(entry)

    def _serve(self, engine: Engine, entry: StoppableEntry) -> None:
        started = time.monotonic_ns()
        if entry.cancelled:
            self._owner.refused(entry, Cancelled("The caller has left."))
            return
        if started > entry.deadline_ns:
            self._owner.refused(entry, DeadlineExceeded(f"The request's time was over before it ran. {MORE_TIME}"))
            return
        self._owner.began(engine.number, entry)
        engine.current = entry
        try:
            reply, input_ns, infer_ns, output_ns = self._predictor.answer(
                entry.payload, entry.prediction_id, entry.handle
            )
            self.run_ns = moving_average(self.run_ns, input_ns + infer_ns + output_ns)
            self._owner.answered(entry, reply, Timing(started - entry.arrived_ns, input_ns, infer_ns, output_ns))
        except Cancelled:
            self._owner.refused(entry, why_stopped(entry))
        except BaseException as error:  # noqa: BLE001 - a tokenizer's panic is no Exception; tell the caller, go on
            self._owner.refused(entry, error)
        finally:
            self._owner.ended(engine.number)
            engine.current = None

    # ------------------------------------------------------------------ a solo lane

    def work_through(self) -> None:
        """Serve what waits, for as long as nobody outside needs attention. Called in the main thread."""
        (engine,) = self._engines
        if not self._bound:
            self._owner.bind(engine.number)
            self._bound = True
        self._something_runs.set()
        until = time.monotonic_ns() + _TURN_NS
        for _ in range(_TURN_REQUESTS):
            try:
                entry = self._next()
            except queue.Empty:
                break
            if entry is not None:
                self._serve(engine, entry)
            if time.monotonic_ns() > until:
                break

    def _watch_solo(self, engine: Engine) -> None:
        """Have the main thread's other work done while it runs something long. Called in a thread of its own."""
        idle, tick = 0, threading.Event()
        while True:
            if idle > _IDLE_TICKS:
                self._something_runs.clear()
                self._something_runs.wait()
                idle = 0
            before = engine.current
            tick.wait(_TICK_SECONDS)
            entry = engine.current
            idle = 0 if entry is not None else idle + 1
            if entry is not None and entry is before:
                self._owner.stand_in(lambda entry=entry: engine.current is entry)  # type: ignore[misc]


def why_stopped(entry: StoppableEntry) -> SeawayError:
    if entry.cancelled:
        return Cancelled("The caller has left.")
    return DeadlineExceeded(f"The request's time was over while the model ran; the run was stopped. {MORE_TIME}")


def _is_fast(predictor: Predictor) -> bool:
    """Whether a warm sample takes so little that requests may wait for it in the socket."""
    started = time.monotonic_ns()
    predictor.warm_up()
    return time.monotonic_ns() - started < _FAST_NS
