"""The batch lane of a worker: the threads around `BatchQueue` (ADR 7).

Prepare threads make tensors of bodies; the device thread takes batches and launches them; where the device works by
itself the collect thread waits for it; the finish thread encodes and sends. One lock guards the queue, and every
request ends with exactly one call of `answer` or `refuse`, or with none when its caller has left.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import numpy as np
import structlog

from seaway.errors import MORE_TIME, Cancelled, DeadlineExceeded, DeviceLost, OutOfMemory, SeawayError
from seaway.runtimes.base import DeviceSession, RunHandle
from seaway.serving.batch_limits import AdaptiveLimits
from seaway.serving.batching import BatchQueue, QueueBounds
from seaway.serving.collate import Collator, Rows
from seaway.serving.lane import Entry, Owner, Timing, moving_average, overloaded
from seaway.serving.predictor import Predictor, asked_timeout_ns, check_timeout
from seaway.serving.tickets import Batch, Priority, Ticket
from seaway.telemetry.batches import BatchCounters, DeviceUse, LimitsNow

log = structlog.get_logger()

_DEPTH = 2
"""Batches on a device that works by itself: the one that runs, and one ahead."""


class BatchOwner(Owner, Protocol):
    """What the owner of batches is told besides."""

    def running_changed(self, entries: list[Any]) -> None:
        """These requests, and no others, have rows on the device now. Called with the lane's lock held."""
        ...


class _Rider(msgspec.Struct, eq=False):
    """The payload of a ticket."""

    entry: Any
    rows: Rows
    input_ns: int
    prepared_ns: int
    taken_ns: int = 0
    ran_ns: int = 0
    batch_rows: int = 0
    executions: list[tuple[int, int]] = []
    """Batches that this request is to tell of, so that each is counted once."""


class _Run(msgspec.Struct, eq=False):
    """A batch on the device."""

    batch: Batch
    handle: RunHandle
    began_ns: int
    launched: Any = None
    stopped_ns: int = 0


class BatchLane:
    """Serves one version in batches. `start` once; `submit`, `cancel` and `watch` are for the I/O thread."""

    def __init__(
        self,
        predictor: Predictor,
        limits: AdaptiveLimits,
        bounds: QueueBounds,
        *,
        owner: BatchOwner,
        collator: Collator,
        preparers: int = 1,
    ) -> None:
        self._predictor = predictor
        self._session: DeviceSession = predictor.session
        self._collator = collator
        self._limits = limits
        self._bounds = bounds
        self._queue = BatchQueue(limits.limits, bounds)
        self._owner = owner
        self._refuse = owner.refused
        self._clock = time.monotonic_ns
        self._depth = 1 if self._session.device == "cpu" else _DEPTH
        self._preparers = preparers
        self.run_ns = 0
        """What a request takes on average, without its waits."""
        self.counters = BatchCounters()
        self.lost = ""
        """Why the device answers nothing more, if so: the process has to end."""
        self._changed = threading.Condition()
        self._arrivals: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._launched: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[Batch, list[Any]] | None] = queue.SimpleQueue()
        self._runs: list[_Run] = []
        self._tickets: dict[int, Ticket] = {}
        """By identity of the entry, for cancelling."""
        self._preparing: dict[int, tuple[Any, int]] = {}
        """By thread: the request that it prepares, and since when."""
        self._unprepared = 0
        self._unfinished = 0
        self._closing = False

    def start(self) -> None:
        targets = [("prepare", self._prepare)] * self._preparers
        targets += [("device", self._drive), ("finish", self._finish)]
        if self._depth > 1:
            targets.append(("collect", self._collect))
        for name, target in targets:
            threading.Thread(target=self._guarded, args=(name, target), name=name, daemon=True).start()

    def _guarded(self, name: str, target: Callable[[], None]) -> None:
        """A lane with a thread less would take requests and answer none."""
        try:
            target()
        except BaseException as error:
            log.exception("lane.thread_died", thread=name)
            self.lost = f"The {name} thread died: {type(error).__name__}."

    def close(self) -> None:
        """Let the threads end; what waits is not served any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for _ in range(self._preparers):
            self._arrivals.put(None)
        self._launched.put(None)
        self._finished.put(None)

    # ------------------------------------------------------------------ the I/O thread

    def hurry(self) -> None:
        """The process or the server ends soon, and nobody new will come: those that wait for company run at once."""
        with self._changed:
            if self._queue.limits.max_delay_ns:
                self._limits.wait_for_nobody()
                self._queue.limits = replace(self._queue.limits, max_delay_ns=0)
                self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Requests that are in no batch yet."""
        return self._unprepared + self._queue.waiting_requests

    @property
    def running(self) -> int:
        """Batches on the device."""
        return len(self._runs)

    @property
    def busy(self) -> bool:
        """True while a request has not ended."""
        return self._unprepared > 0 or len(self._queue) > 0 or self._unfinished > 0

    def refusal(self, deadline_ns: int, now_ns: int) -> SeawayError | None:
        """Why a request that comes now can't wait here, if so."""
        with self._changed:
            waiting, wait_ns = self.waiting, self._queue.backlog_ns()
        return overloaded(waiting, max_waiting=self._bounds.max_requests, wait_ns=wait_ns, left_ns=deadline_ns - now_ns)

    def submit(self, entry: Entry) -> None:
        """Take a request."""
        with self._changed:
            self._unprepared += 1
        self._arrivals.put(entry)

    def cancel(self, entry: Entry) -> None:
        """The caller has left."""
        entry.cancelled = True
        with self._changed:
            ticket = self._tickets.pop(id(entry), None)
            if ticket is not None:
                self._queue.cancel(ticket)
        if ticket is not None:
            self._refuse(entry, Cancelled("The caller has left."))

    def watch(self, now_ns: int) -> int:
        """Answer those whose time is over, and stop a run that nobody waits for.

        For how long the oldest such run has ignored that, in nanoseconds.
        """
        with self._changed:
            expired = self._queue.expire(now_ns)
            for ticket in expired:
                self._tickets.pop(id(ticket.payload.entry), None)
            ignored = 0
            for run in self._runs:
                if any(part.ticket.outcome is None for part in run.batch.slices):
                    continue
                if not run.stopped_ns:
                    run.stopped_ns = now_ns
                    run.handle.terminate()
                ignored = max(ignored, now_ns - run.stopped_ns)
            for entry, began in self._preparing.values():
                # Nothing ends a tokenizer that hangs, and a lane may have one thread that prepares.
                ignored = max(ignored, now_ns - max(began, entry.deadline_ns))
        for ticket in expired:
            error = DeadlineExceeded(f"The request's time was over before its answer came. {MORE_TIME}")
            self._refuse(ticket.payload.entry, error)
        return ignored

    def running_entries(self) -> list[Any]:
        """The requests with rows on the device now."""
        with self._changed:
            return self._entries()

    def limits_now(self) -> LimitsNow:
        """What a batch may have at this moment."""
        limits = self._queue.limits
        return LimitsNow(
            limits.max_rows, limits.max_tokens, limits.max_delay_ns / 1e9,
            length_bucketing=limits.bucketing, latency_target_seconds=self._limits.latency_target_seconds,
            preferred_rows=limits.preferred_sizes, target_missed=self._limits.target_missed,
        )  # fmt: skip

    def device_use(self) -> DeviceUse | None:
        """What the driver says of the GPU; None on a CPU."""
        usage = self._session.usage()
        return None if usage is None else DeviceUse(self._session.device, *usage)

    def _entries(self) -> list[Any]:
        return [part.ticket.payload.entry for run in self._runs for part in run.batch.slices]

    # ------------------------------------------------------------------ prepare threads

    def _prepare(self) -> None:
        while (entry := self._arrivals.get()) is not None:
            thread = threading.get_ident()
            with self._changed:
                self._preparing[thread] = (entry, self._clock())
            try:
                self._prepare_one(entry)
            except BaseException as error:  # noqa: BLE001 - a tokenizer's panic is no Exception; go on with the next
                self._refuse(entry, error)
            finally:
                with self._changed:
                    del self._preparing[thread]
                    self._unprepared -= 1

    def _prepare_one(self, entry: Any) -> None:
        began = self._clock()
        if entry.cancelled:
            self._refuse(entry, Cancelled("The caller has left."))
            return
        if began > entry.deadline_ns:
            raise DeadlineExceeded(f"The request's time was over before it ran. {MORE_TIME}")
        payload = entry.payload
        prepared = self._predictor.prepare(payload)
        rows = self._collator.describe(prepared)
        if isinstance(payload.body, memoryview):
            # It may be lent: when the caller leaves, another's body is written there, which nobody has checked.
            rows.feeds = {name: np.array(array, order="C") for name, array in rows.feeds.items()}
        self._session.check(rows.feeds)
        ready = self._clock()
        rider = _Rider(entry, rows, ready - began, ready)
        parameters = prepared.request.parameters if prepared.request is not None else {}
        check_timeout(parameters, ready - entry.arrived_ns)
        deadline = entry.deadline_ns
        if timeout := asked_timeout_ns(parameters):
            deadline = min(deadline, entry.arrived_ns + timeout)
        low = isinstance(parameters.get("priority"), int) and parameters["priority"] > 1
        ticket = Ticket(
            rows.key, prepared.rows, entry.arrived_ns, deadline, rows.lengths,
            Priority.LOW if low else Priority.HIGH, rows.n_bytes, rider,
        )  # fmt: skip
        with self._changed:
            self._queue.put(ticket)
            self._tickets[id(entry)] = ticket
            self._changed.notify_all()
        if entry.cancelled:  # between the look above and now
            self.cancel(entry)

    # ------------------------------------------------------------------ the device thread

    def _drive(self) -> None:
        while (run := self._next()) is not None:
            self._launch(run)

    def _next(self) -> _Run | None:
        """The next batch, when there is one and the device has room for it; None at the end."""
        with self._changed:
            while not self._closing:
                now = self._clock()
                batch = None
                if len(self._runs) < self._depth and not self.lost:
                    batch = self._queue.take(now, device_free=not self._runs)
                if batch is not None:
                    return self._begin(batch, now)
                due = self._queue.due(now) if not self._runs else None
                self._changed.wait(None if due is None else max((due - now) / 1e9, 1e-4))
            return None

    def _begin(self, batch: Batch, now_ns: int) -> _Run:
        run = _Run(batch, RunHandle(), now_ns)
        self._runs.append(run)
        for part in batch.slices:
            rider = part.ticket.payload
            rider.taken_ns, rider.batch_rows = now_ns, max(rider.batch_rows, batch.rows)
        self._owner.running_changed(self._entries())
        self.counters.left(batch.rows, self._queue.limits.capacity(batch.width), str(batch.reason))
        return run

    def _launch(self, run: _Run) -> None:
        session, batch = self._session, run.batch
        names = batch.slices[0].ticket.payload.rows.prepared.names
        try:
            staged = session.stage(self._collator.stack(batch))
            run.launched = session.launch(staged, names, run.handle)
            if self._depth == 1:
                self._ran(run, session.collect(run.launched))
            else:
                self._launched.put(run)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch's callers are told or it runs in halves
            self._failed(run, error)

    def _collect(self) -> None:
        while (run := self._launched.get()) is not None:
            try:
                self._ran(run, self._session.collect(run.launched))
            except Exception as error:  # noqa: BLE001 - as in `_launch`
                self._failed(run, error)

    def _ran(self, run: _Run, outputs: list[Any]) -> None:
        now = self._clock()
        with self._changed:
            self._runs.remove(run)
            self._owner.running_changed(self._entries())
            self._unfinished += 1
            took = now - run.began_ns
            self.counters.ran(run.batch.tokens, run.batch.padding, took)
            if self._limits.observe(took, now):
                self._queue.limits = self._limits.limits
                log.info("batch.limits", max_rows=self._queue.limits.max_rows, max_tokens=self._queue.limits.max_tokens)
            for part in run.batch.slices:
                part.ticket.payload.ran_ns += took
            teller = next((part.ticket for part in run.batch.slices if part.ticket.outcome is None), None)
            if teller is not None:
                teller.payload.executions.append((run.batch.rows, took))
            self._changed.notify_all()
        self._finished.put((run.batch, outputs))

    def _failed(self, run: _Run, error: Exception) -> None:
        batch = run.batch
        if isinstance(error, DeviceLost):
            # Nobody is told: the process is about to end, and gateways give what hasn't run to the next one.
            self.lost = str(error)
            return
        with self._changed:
            self._runs.remove(run)
            self._owner.running_changed(self._entries())
            if isinstance(error, OutOfMemory | MemoryError):
                self.counters.out_of_memory += 1
                if batch.rows > 1 and self._limits.out_of_memory(batch.rows, batch.tokens, self._clock()):
                    self._queue.limits = self._limits.limits
                failed = self._queue.out_of_memory(batch)
                if failed and self._limits.row_out_of_memory(self._clock()):
                    self._queue.limits = self._limits.limits
            else:
                failed = self._queue.fail(batch)
            self._forget_failed(failed)
            self._changed.notify_all()
        if batch.rows > 1 and not isinstance(error, Cancelled):
            log.warning("batch.failed", rows=batch.rows, reason=str(error)[:300])
        self._refuse_failed(failed, error)

    def _forget_failed(self, tickets: list[Ticket]) -> None:
        """Count the rows at fault. Called with the lock held."""
        self.counters.failed_rows += len(tickets)
        for ticket in tickets:
            self._tickets.pop(id(ticket.payload.entry), None)

    def _refuse_failed(self, tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            log.warning("batch.row_failed", prediction_id=ticket.payload.entry.prediction_id, reason=str(error)[:300])
            self._refuse(ticket.payload.entry, error)

    # ------------------------------------------------------------------ the finish thread

    def _finish(self) -> None:
        while (item := self._finished.get()) is not None:
            batch, outputs = item
            try:
                refused = self._collator.scatter(batch, outputs)
            except Exception as error:  # noqa: BLE001 - whatever the outputs are like, their callers are told
                log.warning("batch.outputs_failed", rows=batch.rows, reason=str(error)[:300])
                self._outputs_failed(batch, error)
            else:
                self._hand_out(batch, refused)
            with self._changed:
                self._unfinished -= 1

    def _outputs_failed(self, batch: Batch, error: Exception) -> None:
        """Run its halves; of a single row, tell the caller."""
        with self._changed:
            failed = self._queue.fail(batch)
            self._forget_failed(failed)
            self._changed.notify_all()
        self._refuse_failed(failed, error)

    def _hand_out(self, batch: Batch, refused: list[tuple[Ticket, SeawayError]]) -> None:
        with self._changed:
            refused = [(ticket, reason) for ticket, reason in refused if self._queue.cancel(ticket)]
            whole = self._queue.done(batch)
            for ticket in [*whole, *(ticket for ticket, _ in refused)]:
                self._tickets.pop(id(ticket.payload.entry), None)
        for ticket, reason in refused:
            self._refuse(ticket.payload.entry, reason)
        for ticket in whole:
            self._finish_one(ticket.payload)

    def _finish_one(self, rider: _Rider) -> None:
        entry, began = rider.entry, self._clock()
        try:
            reply = self._predictor.encode(rider.rows.prepared, [rider.rows.outputs], entry.prediction_id)
        except BaseException as error:  # noqa: BLE001 - outermost frame: tell the caller, go on with the next
            self._refuse(entry, error)
            return
        timing = Timing(
            queue_ns=max(0, rider.prepared_ns - rider.input_ns - entry.arrived_ns),
            batch_ns=max(0, rider.taken_ns - rider.prepared_ns),
            input_ns=rider.input_ns,
            infer_ns=rider.ran_ns,
            output_ns=self._clock() - began,
            batch_rows=rider.batch_rows,
            executions=tuple(rider.executions),
        )
        self.run_ns = moving_average(self.run_ns, timing.input_ns + timing.infer_ns + timing.output_ns)
        self._owner.answered(entry, reply, timing)
