"""Measures what a version costs in which circumstances, in a throw-away process with limits and low priority.

Called by control with `profile_package`; the process is `python -m seaway.serving.profile PARENT DIRECTORY
MEMORY_BYTES SECONDS`. It writes one JSON line when a step begins and one with the result.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from seaway.errors import InferenceFailed, SeawayError
from seaway.serving import process
from seaway.serving.calibration import median, step_times
from seaway.serving.inspect import MAX_ANSWER_BYTES, MAX_BODY_BYTES, limit_model, limit_process
from seaway.types import MAX_BATCH_SIZE, Json

NICENESS = 10
"""Requests go first: figures of a busy machine are worse, and the machine isn't."""
_ROWS_SECONDS, _LENGTHS_SECONDS, _ENGINES_SECONDS, _THREADS_SECONDS = 8.0, 4.0, 4.0, 4.0
_POINT_SECONDS = 0.2
_MAX_RUNS = 200
_MAX_ROWS = 4096
_LENGTHS = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class RowsPoint:
    """One request with so many samples; thread CPU time, as in a calibration."""

    rows: int
    prepare_us: float
    run_us: float
    encode_us: float


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """One text of so many tokens; thread CPU time."""

    tokens: int
    prepare_us: float
    run_us: float
    encode_us: float


@dataclass(frozen=True, slots=True)
class EnginesPoint:
    """So many engine threads of one process, each with one sample after the other."""

    engines: int
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class ThreadsPoint:
    """One sample, run by so many threads inside the runtime; time of the clock."""

    threads: int
    run_us: float


@dataclass(frozen=True, slots=True)
class Curves:
    """A whole profile."""

    load_seconds: float
    memory_bytes: int
    """Of the process once the version was warm."""
    peak_memory_bytes: int
    """With the largest request that was tried."""
    rows: tuple[RowsPoint, ...]
    lengths: tuple[LengthPoint, ...]
    """Empty for versions that don't take texts."""
    engines: tuple[EnginesPoint, ...]
    threads: tuple[ThreadsPoint, ...]
    rewritten: bool = False
    """Measured with the graph rewritten, as it was served at that time."""


class Step(msgspec.Struct, tag="step", frozen=True):
    """What is measured now, and how much of the whole was before it."""

    name: str
    done: float


class _Ended(msgspec.Struct, tag="ended", frozen=True):
    curves: Curves | None = None
    error: str = ""


_decode = msgspec.json.Decoder(Step | _Ended).decode


@dataclass(slots=True)
class Progress:
    """What a profile that runs tells of itself; written by the thread that waits for it."""

    step: str = "start"
    done: float = 0.0


def profile_package(
    directory: Path, *, memory_bytes: int, seconds: float, progress: Progress, rewritten: bool = False
) -> Json:
    """The curves of a package, its graph `rewritten` or not. Called in a thread of control.

    Raises InferenceFailed in words for who asked.
    """
    from seaway.config import child_environment  # noqa: PLC0415 - pydantic is for control, not for the process below

    # -P: a package's own files must never be importable, whatever directory this runs in.
    command = [sys.executable, "-P", "-m", "seaway.serving.profile"]
    command += [
        str(os.getpid()),
        str(directory.resolve()),
        str(memory_bytes),
        str(seconds),
        "rewritten" if rewritten else "exported",
    ]
    child = subprocess.Popen(  # noqa: S603 - our own module, no shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=child_environment(worker=True), start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None  # noqa: S101 - it was asked for
    try:
        for line in _lines(child.stdout, seconds):
            message = _decode(line)
            if isinstance(message, _Ended):
                return _result(message)
            progress.step, progress.done = message.name, message.done
    except msgspec.DecodeError as error:
        raise InferenceFailed("Profiling ended without a result.") from error
    except TimeoutError as error:
        raise InferenceFailed(f"Profiling took more than {seconds:g} s and was ended.") from error
    finally:
        child.kill()
        status = child.wait()
        child.stdout.close()
    reason = signal.Signals(-status).name if status < 0 else f"status {status}"
    raise InferenceFailed(
        f"Profiling crashed ({reason}) at the step {progress.step!r}: the model fails there, or needs more than "
        f"{memory_bytes >> 20} MiB."
    )


def _lines(stream: IO[bytes], seconds: float) -> Iterator[bytes]:
    """Lines as they come, until the end. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while len(rest) < MAX_ANSWER_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from whole


def _result(message: _Ended) -> Json:
    if message.curves is None:
        raise InferenceFailed(message.error)
    curves: Json = msgspec.to_builtins(message.curves)
    return curves


# --------------------------------------------------------------------------- in the throw-away process


class _Profiler:
    """Measures one package, one curve after the other, each within its time but with one point at least."""

    def __init__(self, directory: Path, tell: Callable[[Step], None], *, rewritten: bool) -> None:
        self._directory = directory
        self._rewritten = rewritten
        self._tell = tell
        began = time.monotonic()
        self._predictor = self._open(threads=1)
        self._predictor.warm_up()
        self._load_seconds = time.monotonic() - began
        self._memory = process.proportional_memory_bytes(os.getpid()) or 0
        self._sample = self._predictor.sample()

    def curves(self) -> Curves:
        rows = tuple(self._rows())
        lengths = tuple(self._lengths())
        engines = tuple(self._engines())
        threads = tuple(self._threads())
        return Curves(
            round(self._load_seconds, 4),
            self._memory,
            process.peak_memory_bytes(),
            rows,
            lengths,
            engines,
            threads,
            self._rewritten,
        )

    def _open(self, *, threads: int) -> Any:
        from seaway.serving.predictor import Predictor  # noqa: PLC0415 - after the limits, and not for control

        return Predictor.open(
            self._directory,
            model="profiled",
            version=0,
            max_body_bytes=MAX_BODY_BYTES,
            threads=threads,
            rewritten=self._rewritten,
        )

    def _rows(self) -> Iterator[RowsPoint]:
        limit = min(self._predictor.spec.serving.max_batch_size or MAX_BATCH_SIZE, _MAX_ROWS)
        deadline = time.monotonic() + _ROWS_SECONDS
        rows = 1
        while rows <= limit:
            self._tell(Step(f"{rows} row{'s' if rows > 1 else ''}", 0.4 * rows.bit_length() / _MAX_ROWS.bit_length()))
            try:
                began = time.monotonic()
                yield RowsPoint(rows, *self._times([self._sample] * rows if rows > 1 else self._sample))
            except SeawayError:
                if rows == 1:
                    raise
                return  # so many don't fit
            rows *= 2
            # The next point takes some twice as long.
            if time.monotonic() + 2 * (time.monotonic() - began) > deadline:
                return

    def _lengths(self) -> Iterator[LengthPoint]:
        if self._predictor.spec.input.type != "text":
            return
        deadline = time.monotonic() + _LENGTHS_SECONDS
        seen: set[int] = set()
        for wanted in _LENGTHS:
            text = self._text(wanted)
            tokens = self._prepared(text).tokens
            if tokens in seen or (seen and time.monotonic() > deadline):
                return
            seen.add(tokens)
            self._tell(Step(f"{tokens} tokens", 0.4 + 0.2 * len(seen) / len(_LENGTHS)))
            yield LengthPoint(tokens, *self._times(text))

    def _text(self, tokens: int) -> str:
        """A text of so many tokens, or the most that the version takes."""
        words = max(1, tokens - self._prepared("").tokens if tokens > 1 else 1)
        return " ".join(["a"] * words)

    def _engines(self) -> Iterator[EnginesPoint]:
        counts = _counts(len(process.available_cpus()))
        for number, engines in enumerate(counts):
            self._tell(Step(f"{engines} engine{'s' if engines > 1 else ''}", 0.6 + 0.2 * number / len(counts)))
            seconds = min(0.5, _ENGINES_SECONDS / len(counts))
            yield EnginesPoint(engines, round(self._throughput(engines, seconds), 1))

    def _throughput(self, engines: int, seconds: float) -> float:
        """Requests a second of so many pinned threads that share the session."""
        cpus = process.available_cpus()
        start = threading.Barrier(engines)
        rates = [0.0] * engines
        sample = self._predictor.payload(self._sample)

        def drive(number: int) -> None:
            process.pin_thread(cpus[number % len(cpus)])
            start.wait()
            began = time.monotonic()
            answered = 0
            while answered == 0 or time.monotonic() - began < seconds:
                step_times(self._predictor, sample)
                answered += 1
            rates[number] = answered / (time.monotonic() - began)

        threads = [threading.Thread(target=drive, args=(number,)) for number in range(engines)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates)

    def _threads(self) -> Iterator[ThreadsPoint]:
        counts = _counts(len(process.available_cpus()))
        deadline = time.monotonic() + _THREADS_SECONDS
        for number, threads in enumerate(counts):
            if number and time.monotonic() > deadline:
                return
            self._tell(Step(f"{threads} thread{'s' if threads > 1 else ''}", 0.8 + 0.2 * number / len(counts)))
            predictor = self._predictor if threads == 1 else self._open(threads=threads)
            yield ThreadsPoint(threads, self._times(self._sample, predictor, time.perf_counter_ns)[1])

    def _prepared(self, inputs: Any) -> Any:
        return self._predictor.prepare(self._predictor.payload(inputs))

    def _times(
        self, inputs: Any, predictor: Any = None, clock: Callable[[], int] = time.thread_time_ns
    ) -> tuple[float, float, float]:
        """Medians of the three steps in microseconds, of a moment's worth of runs."""
        predictor = predictor or self._predictor
        payload = predictor.payload(inputs)
        step_times(predictor, payload)
        taken: list[tuple[int, int, int]] = []
        began = time.monotonic()
        while not taken or (time.monotonic() - began < _POINT_SECONDS and len(taken) < _MAX_RUNS):
            taken.append(step_times(predictor, payload, clock))
        prepare, run, encode = (round(median(step) / 1000, 2) for step in zip(*taken, strict=True))
        return prepare, run, encode


def _counts(most: int) -> Sequence[int]:
    """
    >>> _counts(1), _counts(6)
    ([1], [1, 2, 4, 6])
    """
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def _profile(directory: Path, memory_bytes: int, tell: Callable[[Step], None], *, rewritten: bool) -> _Ended:
    try:
        tell(Step("load", 0.0))
        limit_model(directory, memory_bytes)
        return _Ended(_Profiler(directory, tell, rewritten=rewritten).curves())
    except SeawayError as error:
        return _Ended(error=str(error))
    except MemoryError:
        return _Ended(error="Profiling needs more memory than is allowed.")
    except Exception as error:  # noqa: BLE001 - outermost frame of the process; its message could hold a path
        return _Ended(error=f"Profiling failed: {type(error).__name__}.")


def main(arguments: list[str]) -> None:
    parent, directory, memory_bytes, seconds, graph = arguments
    process.die_with_parent(int(parent))
    limit_process(int(memory_bytes), float(seconds) * len(process.available_cpus()))
    os.nice(NICENESS)

    def tell(message: Step | _Ended) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.flush()

    tell(_profile(Path(directory), int(memory_bytes), tell, rewritten=graph == "rewritten"))


if __name__ == "__main__":
    main(sys.argv[1:])
