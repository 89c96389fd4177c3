"""The CPU lane of versions whose requests may share runs (ADR 14): an engine takes along what waits anyway.

Nobody waits for company: a request that comes to an idle engine runs alone. Of what came while it ran, the next run
takes half, as far as it is of one shape and `JointRuns` allows. If a joint run fails, or is stopped because somebody's
time is over, each of its requests runs alone, so that none is answered by what another one did.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import structlog

from seaway.errors import MORE_TIME, Cancelled, DeadlineExceeded, InferenceFailed, InvalidRequest, SeawayError
from seaway.inputs.base import Feeds
from seaway.runtimes.base import Array, RunHandle
from seaway.serving.cpu_lane import CpuLane, Engine, EngineOwner, StoppableEntry, why_stopped
from seaway.serving.joint_runs import same_rows
from seaway.serving.lane import Timing, moving_average
from seaway.serving.predictor import Predictor, Prepared, check_timeout
from seaway.telemetry.batches import BatchCounters
from seaway.types import JointRuns

log = structlog.get_logger()

_CHECKED_FIRST, _CHECKED_EVERY = 4, 64
"""Joint runs (of requests that differ) of which one also runs alone, to compare: the first, and every so often."""
_PAUSE_TIMES = 4
"""After a joint run that failed each request runs alone for so many times what it took: whatever did it may be sent
again and again, and costs a fifth of the time at most."""
_MARGIN = 3
"""A request shares a run if there are so many times what one takes to its deadline."""


_PREPARING = 2
"""Requests are prepared to join a run for as long as a part of what a sample takes alone."""
_SMALL_BODY_BYTES = 4096
_MANY_SHAPES = 4096
"""So many are remembered at once."""


class _Wake:
    """Stands in the queue where an entry does, for engines to look what is ready."""

    doubtful = False


_WAKE: Any = _Wake()


class JointOwner(EngineOwner, Protocol):
    """What the owner of engines with joint runs is told besides."""

    def running_changed(self, entries: Sequence[Any]) -> None:
        """These requests share runs now."""
        ...


@dataclass(slots=True, eq=False)
class _Rider:
    """A request that is ready to run."""

    entry: StoppableEntry
    prepared: Prepared
    key: Hashable
    """Requests of equal keys may share a run; None: this one runs alone."""
    began_ns: int
    input_ns: int

    @property
    def ready_ns(self) -> int:
        return self.began_ns + self.input_ns


class _Group:
    """The requests of a run that is on its way, as the lane watches over it."""

    def __init__(self, riders: Sequence[_Rider]) -> None:
        self.riders = riders
        self.handle = RunHandle()
        self.deadline_ns = min(rider.entry.deadline_ns for rider in riders)

    @property
    def cancelled(self) -> bool:
        """Nobody waits for any of them."""
        return all(rider.entry.cancelled for rider in self.riders)


class JointLane(CpuLane):
    """As `CpuLane`, for a version with joint runs."""

    def __init__(
        self, predictor: Predictor, joint: JointRuns, *, engines: int, max_queue_size: int, owner: JointOwner
    ) -> None:
        super().__init__(predictor, engines=engines, max_queue_size=max_queue_size, owner=owner)
        self.counters = BatchCounters()
        self._joint = joint
        self._joint_owner = owner
        self._ready: deque[StoppableEntry] = deque()
        """Looked at for a run that they didn't fit into; older than what waits elsewhere."""
        self._riders: dict[StoppableEntry, _Rider] = {}
        """Those of them that were prepared."""
        self._sound: set[Hashable] = set()
        """Keys and rows of requests that the model has answered alone in this process. It may refuse others alone, and
        yet compute something of several: six tokens can't be cut into windows of four, twelve can."""
        self._alone_until_ns = 0
        self._together_ns = 0
        """What a joint run takes on average."""
        self._n_together = 0
        self._last: dict[int, int] = {}
        """By engine, how many requests its last run had, if it was joint."""
        self._noted: dict[int, list[StoppableEntry]] = {}
        """By engine, whose requests share a run now."""
        self._lock = threading.Lock()
        """For what engines write: notes and counters."""

    @property
    def waiting(self) -> int:
        return super().waiting + len(self._ready)

    # ------------------------------------------------------------------ engines

    def _next(self) -> StoppableEntry | None:
        while True:
            try:
                entry = self._ready.popleft()
            except IndexError:
                return super()._next()
            if not entry.doubtful:
                return entry
            self._riders.pop(entry, None)
            self._doubtful.append(entry)

    def _serve(self, engine: Engine, entry: StoppableEntry) -> None:
        if entry is _WAKE:
            try:
                entry = self._ready.popleft()
            except IndexError:
                return  # another engine has it
        try:
            rider = self._riders.pop(entry, None) or self._prepare(engine, entry)
            group = self._company(engine, rider) if rider is not None else []
            group = [one for one in group if self._is_wanted(one)]
            if len(group) > 1:
                self._last[engine.number] = len(group)
                group = self._run_together(engine, group)
            for one in group:
                self._run_alone(engine, one)
        finally:
            engine.current = None

    def _remember(self, rider: _Rider) -> None:
        """It was answered alone."""
        if rider.key is None or self._joint.rows <= 1:
            return  # it never joins, or nothing does
        if len(self._sound) >= _MANY_SHAPES:
            self._sound = set()
        self._sound.add((rider.key, rider.prepared.rows))

    def _is_sound(self, rider: _Rider) -> bool:
        """Whether one of its shape was answered alone before."""
        return (rider.key, rider.prepared.rows) in self._sound

    def _may_join(self) -> bool:
        return self._joint.rows > 1 and time.monotonic_ns() >= self._alone_until_ns

    def _prepare(self, engine: Engine, entry: StoppableEntry) -> _Rider | None:
        """Decode it; None: it has ended."""
        began = time.monotonic_ns()
        if not self._is_due(entry, began):
            return None
        self._owner.began(engine.number, entry)
        engine.current = entry
        try:
            prepared = self._predictor.prepare(entry.payload)
            took = time.monotonic_ns() - began
            if prepared.request is not None and prepared.request.parameters:
                check_timeout(prepared.request.parameters, took)
            return _Rider(entry, prepared, _key(prepared), began, took)
        except BaseException as error:  # noqa: BLE001 - a tokenizer's panic is no Exception; tell the caller, go on
            self._owner.refused(entry, error)
            return None
        finally:
            self._owner.ended(engine.number)

    def _company(self, engine: Engine, first: _Rider) -> list[_Rider]:
        """The requests to run with the first one, in the order in which they came."""
        group, joint = [first], self._joint
        left = self._most(first.prepared) - first.prepared.rows
        if (
            left < 1
            or first.entry.doubtful
            or self._is_urgent(first)
            or not (self._may_join() and self._is_sound(first))
        ):
            return group

        share = self._share()

        def joins(other: _Rider) -> bool:
            fits = other.key == first.key and other.prepared.rows <= left and len(group) < share
            return fits and self._is_sound(other) and not (other.entry.doubtful or self._is_urgent(other))

        for ready in list(self._ready):
            other = self._riders.get(ready)
            if other is not None and joins(other) and _remove(self._ready, ready):
                self._riders.pop(ready, None)
                group.append(other)
                left -= other.prepared.rows
        self._let_come_back(engine, min(left, share - len(group)))
        # The first one waits while others are prepared, which must cost less than what they save.
        most_ns = joint.alone_ns // _PREPARING
        until = time.monotonic_ns() + most_ns
        looks = -(-self._queue.qsize() // len(self._engines)) if first.input_ns <= most_ns else 0
        for _ in range(looks):
            enough = left < 1 or len(group) >= share or len(self._ready) >= joint.rows or time.monotonic_ns() > until
            entry = None if enough else self._fresh()
            if entry is None:
                break
            if _is_larger(entry, first.entry):
                self._put_back(entry)
                continue
            rider = self._prepare(engine, entry)
            if rider is not None and joins(rider):
                group.append(rider)
                left -= rider.prepared.rows
            elif rider is not None:
                self._riders[entry] = rider
                self._put_back(entry)
        return group

    def _share(self) -> int:
        """Requests that an engine takes along of those that wait: half of them, or less where there are more engines.

        Those who are answered come back while the others run. Who takes all has nothing to do until then, and whoever
        comes a moment late waits for a run that is twice as long.
        """
        waiting = 1 + len(self._ready) + self._queue.qsize()
        return max(2, -(-waiting // max(2, len(self._engines))))

    def _put_back(self, entry: StoppableEntry) -> None:
        self._ready.append(entry)
        if len(self._engines) > 1:
            self._queue.put(_WAKE)  # for one that has nothing to do

    def _most(self, prepared: Prepared) -> int:
        """Samples of this size that may share a run."""
        each = prepared.numbers // max(1, prepared.rows)
        return min(self._joint.rows, self._joint.numbers // max(1, each))

    def _let_come_back(self, engine: Engine, places: int) -> None:
        """Look once more who has come, where fewer wait than have just been answered: most ask again at once."""
        expected = min(self._last.pop(engine.number, 1) - 1, places)
        if self._queue.qsize() < expected:
            time.sleep(0)  # whoever passes their requests on gets the core, or the interpreter, first
            if self.solo:
                self._owner.stand_in(lambda: True)

    def _fresh(self) -> StoppableEntry | None:
        """The next one that waits and is not doubtful."""
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return None
            if entry is None:
                self._queue.put(None)  # for `_next`, which ends the engine
                return None
            if entry is _WAKE:
                continue  # this engine comes to what is ready by itself
            if not entry.doubtful:
                return entry
            self._doubtful.append(entry)

    def _is_urgent(self, rider: _Rider) -> bool:
        return rider.entry.deadline_ns - time.monotonic_ns() < _MARGIN * self._together_ns

    def _is_wanted(self, rider: _Rider) -> bool:
        return self._is_due(rider.entry, time.monotonic_ns())

    def _is_due(self, entry: StoppableEntry, now_ns: int) -> bool:
        """Whether somebody still waits for it; if nobody does, it has ended."""
        if entry.cancelled:
            self._owner.refused(entry, Cancelled("The caller has left."))
        elif now_ns > entry.deadline_ns:
            self._owner.refused(entry, DeadlineExceeded(f"The request's time was over before it ran. {MORE_TIME}"))
        else:
            return True
        return False

    # ------------------------------------------------------------------ runs

    def _run_alone(self, engine: Engine, rider: _Rider) -> None:
        if not self._is_wanted(rider):
            return
        entry, began = rider.entry, time.monotonic_ns()
        self._owner.began(engine.number, entry)
        engine.current = entry
        try:
            (outputs,) = self._predictor.run([rider.prepared], entry.handle)
            took = time.monotonic_ns() - began
            self._remember(rider)
            self._count([rider], took)
            self._answer(rider, outputs, began, took)
        except Cancelled:
            self._owner.refused(entry, why_stopped(entry))
        except BaseException as error:  # noqa: BLE001 - as in `_prepare`
            self._owner.refused(entry, error)
        finally:
            self._owner.ended(engine.number)

    def _run_together(self, engine: Engine, riders: list[_Rider]) -> list[_Rider]:
        """Answer them by one run; those that have to run alone, because that failed."""
        group, began = _Group(riders), time.monotonic_ns()
        self._note(engine, [rider.entry for rider in riders])
        self._owner.began(engine.number, riders[0].entry)
        engine.current = group
        try:
            shares = self._shares(group)
            if shares is None:
                return riders
            took = time.monotonic_ns() - began
            self._together_ns = moving_average(self._together_ns, took)
            self._count(riders, took)
            left = [(rider, outputs) for rider, outputs in zip(riders, shares, strict=True) if self._is_here(rider)]
            for at, (rider, outputs) in enumerate(left):
                try:
                    self._answer(rider, [outputs], began, took, riders, tells=at == 0)
                except BaseException as error:  # noqa: BLE001 - as in `_prepare`
                    self._owner.refused(rider.entry, error)
            return []
        finally:
            self._note(engine, [])
            self._owner.ended(engine.number)

    def _shares(self, group: _Group) -> list[list[Array]] | None:
        """Each request's outputs of a run for all of them; None: they have to run alone."""
        riders, began = group.riders, time.monotonic_ns()
        names, feeds = riders[0].prepared.names, [rider.prepared.samples.feeds[0] for rider in riders]
        try:
            stacked = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
            outputs = self._predictor.session.run(stacked, names, group.handle)
            shares = _cut(outputs, [rider.prepared.rows for rider in riders])
            self._check(group, shares)
        except Cancelled:
            pass  # somebody's time is over: of each alone that is known
        except (SeawayError, MemoryError) as error:
            ids = [rider.entry.prediction_id for rider in riders]
            log.warning("lane.joint_run_failed", prediction_ids=ids, reason=str(error)[:300])
        except BaseException:  # whatever it is, each of them can run alone
            log.exception("lane.joint_run_failed", requests=len(riders))
        else:
            return shares
        now = time.monotonic_ns()
        self._alone_until_ns = now + _PAUSE_TIMES * (now - began)
        return None

    def _check(self, group: _Group, shares: Sequence[Sequence[Array]]) -> None:
        """Now and then, run one of them alone, too. Raises InferenceFailed, and joins no more, where that differs."""
        self._n_together += 1
        if self._n_together > _CHECKED_FIRST and self._n_together % _CHECKED_EVERY:
            return
        first = group.riders[0].prepared.samples.feeds[0]
        if all(_equal(first, rider.prepared.samples.feeds[0]) for rider in group.riders[1:]):
            self._n_together -= 1  # nothing would show
            return
        at = self._n_together % len(group.riders)
        prepared = group.riders[at].prepared
        try:
            alone = self._predictor.session.run(prepared.samples.feeds[0], prepared.names, group.handle)
        except InvalidRequest:  # of all else each of them finds out alone
            why = "what is refused alone was answered in company"
        else:
            if all(same_rows([one], other) for one, other in zip(alone, shares[at], strict=True)):
                return
            why = "an answer was another one in company than alone"
        self._joint = JointRuns(why=why)
        log.error("lane.no_joint_runs", prediction_id=group.riders[at].entry.prediction_id, reason=self._joint.why)
        raise InferenceFailed(f"Requests run alone from now on: {self._joint.why}.")

    def _is_here(self, rider: _Rider) -> bool:
        """Whether its caller hasn't left; if it has, it has ended."""
        left = rider.entry.cancelled  # another thread may set it at any time
        if left:
            self._owner.refused(rider.entry, Cancelled("The caller has left."))
        return not left

    def _answer(
        self,
        rider: _Rider,
        outputs: list[list[Array]],
        began_ns: int,
        took_ns: int,
        together: Sequence[_Rider] = (),
        *,
        tells: bool = False,
    ) -> None:
        """With the outputs of each of its feeds, from a run for all that were `together`; one of them `tells` of it."""
        encoding = time.monotonic_ns()
        reply = self._predictor.encode(rider.prepared, outputs, rider.entry.prediction_id)
        output_ns = time.monotonic_ns() - encoding
        self.run_ns = moving_average(self.run_ns, rider.input_ns + took_ns // max(1, len(together)) + output_ns)
        rows = sum(one.prepared.rows for one in together)
        timing = Timing(
            queue_ns=(rider.began_ns if together else began_ns - rider.input_ns) - rider.entry.arrived_ns,
            input_ns=rider.input_ns,
            infer_ns=took_ns,
            output_ns=output_ns,
            batch_ns=began_ns - rider.ready_ns if together else 0,
            batch_rows=rows,
            executions=((rows, took_ns),) if tells else (),
        )
        self._owner.answered(rider.entry, reply, timing)

    # ------------------------------------------------------------------ for others to see

    def _note(self, engine: Engine, entries: list[StoppableEntry]) -> None:
        """Tell the owner who shares a run, in case the process dies of it."""
        with self._lock:
            self._noted[engine.number] = entries
            self._joint_owner.running_changed([one for several in self._noted.values() for one in several])

    def _count(self, riders: Sequence[_Rider], took_ns: int) -> None:
        rows, most = sum(rider.prepared.rows for rider in riders), self._most(riders[0].prepared)
        with self._lock:
            self.counters.left(rows, most, "full" if rows >= most else "idle")
            self.counters.ran(sum(rider.prepared.tokens for rider in riders), 0, took_ns)


def _key(prepared: Prepared) -> Hashable:
    """What samples must have in common to share a run; None: they can't."""
    if len(prepared.samples.feeds) != 1 or not prepared.rows:
        return None
    (feeds,) = prepared.samples.feeds
    if any(array.shape[:1] != (prepared.rows,) for array in feeds.values()):
        return None  # the graph says what is wrong with it
    shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in feeds.items())
    return (tuple(prepared.names), tuple(sorted(shapes)))


def _equal(one: Feeds, other: Feeds) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _cut(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """The outputs of a run as those of its requests. Raises InferenceFailed where they don't count its samples."""
    if any(array.shape[:1] != (sum(rows),) for array in outputs):
        raise InferenceFailed(f"An output has other than a row for each of {sum(rows)} samples.")
    shares, at = [], 0
    for count in rows:
        shares.append([array[at : at + count] for array in outputs])
        at += count
    return shares


def _is_larger(entry: StoppableEntry, than: StoppableEntry) -> bool:
    """Whether a body is so much larger that it has another shape, and takes long to read."""
    return len(entry.payload.body) > 2 * len(than.payload.body) + _SMALL_BODY_BYTES


def _remove(ready: deque[StoppableEntry], entry: StoppableEntry) -> bool:
    """True unless another engine has taken it."""
    try:
        ready.remove(entry)
    except ValueError:
        return False
    return True
