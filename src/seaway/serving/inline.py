"""Versions that run inside the gateway: no hop, no other process, for models of a few microseconds (ADR 6).

What makes that safe: the version has proved itself in a worker, which stays and takes whatever is not plain business;
an inline run that fails for a reason of its own is answered by the worker instead; a version that does so again and
again, uses more CPU than its budget, or runs on and on is moved out for good. A watchdog thread ends the run that
doesn't end by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from seaway.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotSupported,
    PayloadTooLarge,
    Unavailable,
    UnsupportedEncoding,
)
from seaway.runtimes.base import RunHandle
from seaway.serving.predictor import Payload, Predictor, Reply, TooLarge
from seaway.serving.weight_files import is_filled
from seaway.types import InlineSpec, ServedVersion

log = structlog.get_logger()

_TICK_SECONDS = 0.02
_IDLE_TICKS = 50
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_RUN_CPU_NS = 20_000_000
"""CPU time after which a single run is ended: a hundred times the budget of one that always runs here."""
_PATIENT_RUNS = 4
"""For others: so many budgets."""
_RUN_WALL_NS = 1_000_000_000
_SAMPLE = 16
"""Every so many requests the thread's CPU clock is read: it costs as much as a small model."""
_WEIGHED = 16
"""At every so many samples this process's memory is looked at, too: that costs as much as a request."""
_PATIENCE = 8
"""Samples over budget, or failures, in a row, before a version is moved out."""
_CALLERS_FAULT = (InvalidRequest, PayloadTooLarge, UnsupportedEncoding, NotSupported, DeadlineExceeded)
_TRIES = 8
"""Requests of a new size that workers answer, before their times decide that it takes too long to run here."""
_PAUSE_NS, _MAX_PAUSE_NS = 1_000_000_000, 64_000_000_000
"""For how long that is believed: at first, and at most. The machine may have been busy with something else."""
MAX_GROWTH_BYTES = 256 << 20
"""How much the gateway may grow by a version's runs before it is moved out."""


@dataclass(slots=True)
class _Vain:
    """Bodies that were read here for nothing: a worker had to answer."""

    times: int = 0
    until_ns: int = 0
    """They aren't read before."""
    pause_ns: int = _PAUSE_NS


def _like(n_bytes: int, header_length: int | None) -> tuple[bool, int]:
    """What bodies have in common that are JSON or binary, and differ by an eighth in size at most."""
    shift = max(0, n_bytes.bit_length() - 4)
    return header_length is None, (n_bytes >> shift) << shift


class InlineVersion:
    """One loaded version, run by the event loop's thread. `answer` is called by that thread only."""

    def __init__(self, served: ServedVersion, spec: InlineSpec, predictor: Predictor, watchdog: Watchdog) -> None:
        self.served = served
        self.alone = spec.alone
        """It runs here only while the server is asked for nothing else."""
        self.max_body_bytes = spec.max_body_bytes
        self._vain: dict[tuple[bool, int], _Vain] = {}
        """By what bodies are like: those that were read here for nothing."""
        self.cpu_ns = 0
        """Thread CPU time spent so far, extrapolated from samples."""
        self._budget_ns = spec.budget_ns
        self._max_rows = spec.max_rows
        self.max_numbers = spec.max_numbers
        self._spec_numbers = spec.max_numbers
        self._learns = True
        self.refused_numbers = 0
        """Of the last request that was too large."""
        self._run_cpu_ns = max(_RUN_CPU_NS, _PATIENT_RUNS * spec.budget_ns)
        self._predictor = predictor
        self._watchdog = watchdog
        self._handle = RunHandle()
        self._countdown = 1
        self._over_budget = 0
        self._failures = 0
        self._samples = 0
        self._weighs = False
        self._bytes_before = 0
        self._growths = 0
        self._grown_bytes = 0
        """Memory of this process after its runs less that before them, extrapolated from samples."""

    @classmethod
    def open(cls, served: ServedVersion, watchdog: Watchdog, *, max_body_bytes: int) -> InlineVersion:
        """Load and warm up; a worker has verified the files. Called in a thread. Raises SeawayError."""
        spec = served.inline
        assert spec is not None  # noqa: S101 - the caller looked
        shared = Path(spec.weights) if spec.weights is not None else None
        if shared is not None and not is_filled(shared):
            raise Unavailable("its processes don't share weights any more")
        predictor = Predictor.open(
            Path(spec.package), model=served.model, version=served.version, max_body_bytes=max_body_bytes,
            prepared_in=shared, rewritten=spec.rewritten,
        )  # fmt: skip
        predictor.warm_up()
        return cls(served, spec, predictor, watchdog)

    def answer(self, payload: Payload, prediction_id: str) -> tuple[Reply, int, int, int] | None:
        """The answer and the nanoseconds of its three steps, or None: the worker should see to this request.

        Raises InvalidRequest, PayloadTooLarge, UnsupportedEncoding or NotSupported, which are the caller's fault.
        """
        self._countdown -= 1
        cpu = 0 if self._countdown else self._begin_sample()
        watchdog = self._watchdog
        watchdog.begin(self._handle, self._run_cpu_ns)
        try:
            answered = self._predictor.answer(payload, prediction_id, self._handle, self._max_rows, self.max_numbers)
        except _CALLERS_FAULT:
            raise
        except TooLarge as error:
            self.refused_numbers = error.numbers
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker tries it in a process of its own
            self._fail(error)
            return None
        finally:
            watchdog.handle = None
            if not self._countdown:
                self._sample(time.thread_time_ns() - cpu)
        self._failures = 0
        return answered

    def takes(self, n_bytes: int, header_length: int | None, now_ns: int) -> bool:
        """Whether a body like that should be read here."""
        if n_bytes > self.max_body_bytes:
            return False
        vain = self._vain.get(_like(n_bytes, header_length))
        return vain is None or now_ns >= vain.until_ns

    def learn(
        self, numbers: int, limit: int | None, n_bytes: int, header_length: int | None, took_ns: int, now_ns: int
    ) -> None:
        """A worker took so long for a request that was too large to run here: may such run here from now on?

        `limit`: `max_numbers` when it was refused; a request of no more than that had too many rows.

        Whatever else the machine does makes a run longer and never shorter, so the shortest of several decides. Bodies
        that were read in vain so often are not read for a while.
        """
        like = _like(n_bytes, header_length)
        if self._learns and self.max_numbers is not None and limit is not None and numbers > limit:
            if numbers <= self.max_numbers:
                return  # another answer has shown it meanwhile
            if took_ns <= self._budget_ns:
                self.max_numbers = numbers
                self._vain.pop(like, None)
                return
        vain = self._vain.setdefault(like, _Vain())
        vain.times += 1
        if vain.times >= _TRIES:
            vain.times = 0
            vain.until_ns = now_ns + vain.pause_ns
            vain.pause_ns = min(2 * vain.pause_ns, _MAX_PAUSE_NS)

    def _begin_sample(self) -> int:
        # Not the first, which finds this thread without the memory that runs keep.
        self._weighs = self._samples % _WEIGHED == 1
        self._samples += 1
        if self._weighs:
            self._bytes_before = private_bytes()
        return time.thread_time_ns()

    def _sample(self, spent_ns: int) -> None:
        self._countdown = _SAMPLE
        if self._weighs:
            grown = (private_bytes() - self._bytes_before) * _SAMPLE * _WEIGHED
            self._grown_bytes = max(0, self._grown_bytes + grown)
            self._growths += grown > 0
            # Once may be somebody else's, whose memory came in the same moment.
            if self._grown_bytes > MAX_GROWTH_BYTES and self._growths > 1:
                mib = self._grown_bytes >> 20
                self._watchdog.suspect(self.served, f"the gateway has grown by {mib} MiB with its runs")
        self.cpu_ns += spent_ns * _SAMPLE
        # A request may have many rows; its budget is for one.
        self._over_budget = self._over_budget + 1 if spent_ns > 2 * self._budget_ns else 0
        if self._over_budget >= _PATIENCE:
            self._watchdog.suspect(
                self.served, f"its requests take {spent_ns / 1e3:.0f} µs of CPU, over {self._budget_ns / 1e3:.0f}"
            )

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if self._handle.terminated:
            self._handle = RunHandle()
            if self.max_numbers != self._spec_numbers:
                # As many numbers in another shape may take much longer: back to what was calibrated.
                self.max_numbers, self._learns = self._spec_numbers, False
                return
            self._watchdog.suspect(self.served, f"a run took more than {self._run_cpu_ns / 1e6:.0f} ms and was ended")
        elif self._failures >= _PATIENCE:
            self._watchdog.suspect(self.served, f"{self._failures} runs in a row failed ({type(error).__name__})")


class Watchdog:
    """Ends inline runs that overstay. One thread for each gateway, which sleeps while nothing runs inline."""

    def __init__(self, suspect: Callable[[ServedVersion, str], None]) -> None:
        """`suspect` is told which version must go, and why. Make it in the event loop's thread."""
        self.suspect = suspect
        has_clock = hasattr(time, "pthread_getcpuclockid")
        self._clock = time.pthread_getcpuclockid(threading.get_ident()) if has_clock else -1
        self.handle: RunHandle | None = None
        """Of the run that is under way; whoever called `begin` sets it to None afterwards."""
        self._runs = 0
        self._limit_ns = _RUN_CPU_NS
        self._sleeps = True
        self._wake = threading.Event()
        self._tick = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="inline-watchdog", daemon=True)
        self._thread.start()

    def begin(self, handle: RunHandle, cpu_ns: int = _RUN_CPU_NS) -> None:
        """A run starts that may take so much CPU time. Called by the event loop's thread."""
        self._runs += 1
        self._limit_ns = cpu_ns
        self.handle = handle
        if self._sleeps:
            self._sleeps = False
            self._wake.set()

    def _watch(self) -> None:
        seen, quiet, cpu, began = -1, 0, 0, 0
        while True:
            if quiet > _IDLE_TICKS:
                self._sleeps = True
                self._wake.wait()
                self._wake.clear()
                quiet = 0
            self._tick.wait(_TICK_SECONDS)
            handle, run = self.handle, self._runs
            quiet = quiet + 1 if run == seen and handle is None else 0
            if handle is None or run != seen:
                seen, cpu, began = run, self._cpu(), time.monotonic_ns()
            elif self._cpu() - cpu > self._limit_ns or time.monotonic_ns() - began > _RUN_WALL_NS:
                handle.terminate()

    def _cpu(self) -> int:
        """CPU time of the event loop's thread; where the system has no such clock, wall time stands in."""
        return time.clock_gettime_ns(self._clock) if self._clock != -1 else time.monotonic_ns()


def private_bytes() -> int:
    """Resident memory that this process shares with no other; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - quicker
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES
