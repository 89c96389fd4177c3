"""A gateway's metrics page: counters in a mapped file, written by one process and read by any at any moment.

The kernel keeps the file when its writer is killed, so nothing that was recorded is lost, and the gateway that takes
its place goes on counting in the same page. All cells are 8-byte words that only grow, each stored at once:

    header  magic (stored last), layout, capacity, slots in use (stored when a new slot is complete)
    slot    sequence, version, name length, name[16 words], outcomes[8], fail ns, 4 histograms x 13 buckets after the
            first, success ns, rows, last answer ns, 4 histograms x (first bucket, sum ns),
            9 batch sizes x (size, executions, input ns, infer ns, output ns)

A slot's sequence is odd while a record is being written: a reader that meets that reads again, so it never sees half
a record of a living writer. A writer killed in the middle leaves one request partly counted: in some of the slot's
histograms and not in its outcome, which is stored last. Histogram counts are sums of buckets, so each one stays
consistent in itself.

Success ns to the first batch size is the block, what nearly every answer changes: the writer knows its values and
stores it whole by one copy of bytes. That moves at least eight bytes at a time, so that a kill leaves every cell old or
new. `struct.pack_into` won't do: it clears what it is about to write, and a kill in between would lose counts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import msgspec

from seaway.errors import Conflict, Unavailable
from seaway.telemetry.snapshot import BUCKETS_NS, OTHER_MODELS, OUTCOMES, Executions, Histogram, SeriesSnapshot

CAPACITY = 1024

_MAGIC, _LAYOUT_AT, _CAPACITY_AT, _USED_AT, _HEADER = 0, 1, 2, 3, 8
_MAGIC_WORD = int.from_bytes(b"seawaypg", "little")
_LAYOUT = 2

_NAME_BYTES = 128
_EXACT_BATCH_SIZES = 8
_SEQUENCE, _VERSION, _NAME_LENGTH, _NAME = 0, 1, 2, 3
_OUTCOMES = _NAME + _NAME_BYTES // 8
_FAIL_NS = _OUTCOMES + len(OUTCOMES)
_QUEUE, _BATCH, _INFERENCE, _REQUEST = range(4)
_LATER = _FAIL_NS + 1  # the buckets after the first, of one histogram after another
_N_LATER = len(BUCKETS_NS)
_BLOCK = _LATER + 4 * _N_LATER
_SUCCESS_NS, _ROWS, _LAST_NS, _HISTOGRAMS = range(_BLOCK, _BLOCK + 4)
_BATCH_SIZES = _HISTOGRAMS + 2 * 4
_BLOCK_END = _BATCH_SIZES + 5
_STRIDE = -(-(_BATCH_SIZES + 5 * (_EXACT_BATCH_SIZES + 1)) // 8) * 8  # whole cache lines

_OUTCOME_AT = {outcome: _OUTCOMES + index for index, outcome in enumerate(OUTCOMES)}
_OK = _OUTCOME_AT["ok"]
_WORKED = frozenset({"ok", "failed", "deadline"})
_FIRST_NS = BUCKETS_NS[0]
_pack_block = struct.Struct(f"{_BLOCK_END - _BLOCK}Q").pack
_READ_ATTEMPTS = 2000


class Timings(msgspec.Struct, gc=False):
    """Where one request's time went, in nanoseconds, and how many samples it had.

    `batch_ns` is the wait for company in a batch; `total_ns` is the gateway's view, from arrival to answer. A request
    that no engine answered has only `total_ns`.
    """

    queue_ns: int
    batch_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    total_ns: int
    rows: int
    executions: tuple[tuple[int, int], ...] | None = None
    """Runs of the model that are to be counted with it: size and time; None: one, of its own rows."""


class Series:
    """The counters of one model version in one gateway. Made by `MetricsPage.series`; one thread records."""

    __slots__ = ("_block", "_bytes", "_clock_ns", "_here", "_ok", "_sequence", "_sizes", "_words")

    def __init__(self, mapped: mmap.mmap, at: int, words: memoryview[int], clock_ns: Callable[[], int]) -> None:
        """`words` begin at word `at` of the page."""
        self._bytes, self._words = mapped, words
        self._here = slice(8 * (at + _BLOCK), 8 * (at + _BLOCK_END))
        self._clock_ns = clock_ns
        # A predecessor that was killed in the middle of a record left its sequence odd.
        self._sequence = words[_SEQUENCE] + words[_SEQUENCE] % 2
        words[_SEQUENCE] = self._sequence
        self._ok = words[_OK]
        self._block = tuple(words[_BLOCK:_BLOCK_END])
        exact = range(_BATCH_SIZES, _BATCH_SIZES + 5 * _EXACT_BATCH_SIZES, 5)
        self._sizes = {words[at]: at for at in exact if words[at]}

    def record(self, outcome: str, timings: Timings) -> None:
        """Count one finished request. Never blocks and never fails: durations below zero count as zero.

        `seaway_request_seconds` takes the requests that a model worked on or should have (ok, failed, deadline); those
        refused at once would make it look fast. The phases are only known of answered ones.
        """
        if outcome == "ok":
            self._answered(timings)
            return
        outcome_at = _OUTCOME_AT[outcome]
        words, total = self._words, max(timings.total_ns, 0)
        sequence = self._sequence
        words[_SEQUENCE] = sequence + 1
        if outcome in _WORKED:
            block = list(self._block)
            first = _HISTOGRAMS - _BLOCK + 2 * _REQUEST
            if total <= _FIRST_NS:
                block[first] += 1
            else:
                self._later(_REQUEST, total)
            block[first + 1] += total
            self._store(tuple(block))
        words[_FAIL_NS] += total
        words[outcome_at] += 1
        self._sequence = words[_SEQUENCE] = sequence + 2

    def _answered(self, timings: Timings) -> None:
        """Every answer passes here: plain names in the order of the block, and few calls."""
        queue, batch, given, infer = timings.queue_ns, timings.batch_ns, timings.input_ns, timings.infer_ns
        output, total, rows = timings.output_ns, timings.total_ns, timings.rows
        if queue < 0 or batch < 0 or given < 0 or infer < 0 or output < 0 or total < 0 or rows < 0:
            queue, batch, given, infer = max(queue, 0), max(batch, 0), max(given, 0), max(infer, 0)
            output, total, rows = max(output, 0), max(total, 0), max(rows, 0)
        (
            success, n_rows, _, queues, queue_sum, batches, batch_sum, infers, infer_sum, totals, total_sum,
            size, runs, given_sum, run_sum, output_sum,
        ) = self._block  # fmt: skip
        words, sequence = self._words, self._sequence
        words[_SEQUENCE] = sequence + 1
        if queue <= _FIRST_NS:
            queues += 1
        else:
            self._later(_QUEUE, queue)
        if batch <= _FIRST_NS:
            batches += 1
        else:
            self._later(_BATCH, batch)
        if infer <= _FIRST_NS:
            infers += 1
        else:
            self._later(_INFERENCE, infer)
        if total <= _FIRST_NS:
            totals += 1
        else:
            self._later(_REQUEST, total)
        for ran, took in ((rows, infer),) if timings.executions is None else timings.executions:
            if not size and ran:
                size = ran
                self._sizes[ran] = _BATCH_SIZES
            if ran == size and ran:
                runs, given_sum, run_sum, output_sum = runs + 1, given_sum + given, run_sum + took, output_sum + output
            else:
                self._execution(ran, given, took, output)
            given = output = 0  # counted with the first
        self._store((
            success + total, n_rows + rows, self._clock_ns(), queues, queue_sum + queue, batches, batch_sum + batch,
            infers, infer_sum + infer, totals, total_sum + total, size, runs, given_sum, run_sum, output_sum,
        ))  # fmt: skip
        self._ok = words[_OK] = self._ok + 1
        self._sequence = words[_SEQUENCE] = sequence + 2

    def _store(self, block: tuple[int, ...]) -> None:
        self._bytes[self._here] = _pack_block(*block)
        self._block = block

    def _later(self, histogram: int, ns: int) -> None:
        """Count in one of the buckets after the first."""
        self._words[_LATER - 1 + histogram * _N_LATER + bisect_left(BUCKETS_NS, ns)] += 1

    def _execution(self, rows: int, given: int, infer: int, output: int) -> None:
        """Count an execution of another size than the first."""
        words = self._words
        at = self._sizes.get(rows) or self._size_at(rows)
        words[at + 1] += 1
        words[at + 2] += given
        words[at + 3] += infer
        words[at + 4] += output

    def _size_at(self, rows: int) -> int:
        """Where executions of `rows` are counted; the ninth place takes all sizes after the eighth."""
        at = _BATCH_SIZES + 5 * len(self._sizes)
        if rows > 0 and len(self._sizes) < _EXACT_BATCH_SIZES:
            self._words[at] = rows
            self._sizes[rows] = at
            return at
        return _BATCH_SIZES + 5 * _EXACT_BATCH_SIZES

    def _release(self) -> None:
        self._words.release()


class NoMetrics:
    """Takes the place of a page where nothing is to be counted: `/metrics` then knows of no prediction."""

    def series(self, model: str, version: int) -> NoMetrics:
        return self

    def record(self, outcome: str, timings: Timings) -> None:
        """Forget it."""


class MetricsPage:
    """A page opened for writing. One for each gateway process; a lock on the file keeps a second writer away."""

    def __init__(self, path: Path, *, capacity: int = CAPACITY, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Open the page at `path`, or make it.

        Raises Conflict while another process still writes it, Unavailable when the file is no page of this layout.
        `clock_ns` is Unix time.
        """
        self._clock_ns = clock_ns
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._map = self._claim(path, capacity)
        except BaseException:
            os.close(self._fd)
            raise
        self._words = memoryview(self._map).cast("Q")
        self._capacity = self._words[_CAPACITY_AT]
        self._series: dict[tuple[str, int], Series] = {}
        for slot in range(self._words[_USED_AT]):
            words = self._slot(slot)
            self._series[_key(words.tolist())] = Series(self._map, _at(slot), words, clock_ns)

    def _claim(self, path: Path, capacity: int) -> mmap.mmap:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another process still writes the metrics page {path.name}; stop it first.") from error
        # Never shorter: a reader that has mapped the file would be killed when it touches what is gone.
        size = max(os.fstat(self._fd).st_size, 8 * (_HEADER + capacity * _STRIDE))
        os.ftruncate(self._fd, size)
        mapped = mmap.mmap(self._fd, size)
        with memoryview(mapped).cast("Q") as words:
            if words[_MAGIC] == 0:
                words[_LAYOUT_AT], words[_CAPACITY_AT], words[_USED_AT] = _LAYOUT, capacity, 0
                words[_MAGIC] = _MAGIC_WORD
            _check(words, path)
        return mapped

    def _slot(self, slot: int) -> memoryview[int]:
        return self._words[_at(slot) : _at(slot) + _STRIDE]

    def series(self, model: str, version: int) -> Series:
        """Where requests of this version are counted. The same object each time; callers needn't keep it.

        Pass `UNKNOWN_MODEL` for requests that name no served model: a name the caller invented must not take a slot.
        """
        found = self._series.get((model, version))
        return found if found is not None else self._allocate(model, version)

    def _allocate(self, model: str, version: int) -> Series:
        name = model.encode()
        slot = self._words[_USED_AT]
        # The last slot is kept for everybody who comes too late.
        if (slot >= self._capacity - 1 or len(name) > _NAME_BYTES) and (model, version) != OTHER_MODELS:
            return self.series(*OTHER_MODELS)
        words = self._slot(slot)
        padded = name.ljust(_NAME_BYTES, b"\0")
        for index in range(_NAME_BYTES // 8):
            words[_NAME + index] = int.from_bytes(padded[8 * index : 8 * index + 8], "little")
        words[_NAME_LENGTH] = len(name)
        words[_VERSION] = version
        self._words[_USED_AT] = slot + 1
        series = self._series[model, version] = Series(self._map, _at(slot), words, self._clock_ns)
        return series

    def close(self) -> None:
        """Give the page back; it stays readable. No series of it may be used afterwards."""
        for series in self._series.values():
            series._release()  # noqa: SLF001 - same module
        self._words.release()
        self._map.close()
        os.close(self._fd)


def read_page(path: Path) -> list[SeriesSnapshot]:
    """Everything counted in the page at `path`; nothing when its gateway hasn't made it yet.

    Called in any process, at any moment. Raises Unavailable when the file is no page of this layout.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        size = os.fstat(fd).st_size
        if size < 8 * _HEADER:
            return []
        mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    with mapped, memoryview(mapped) as raw, raw.cast("Q") as words:
        if words[_MAGIC] == 0:
            return []
        _check(words, path)
        return [_snapshot(_read_slot(words, slot)) for slot in range(words[_USED_AT])]


def _at(slot: int) -> int:
    return _HEADER + slot * _STRIDE


def _check(words: memoryview[int], path: Path) -> None:
    fits = 8 * (_HEADER + words[_CAPACITY_AT] * _STRIDE) <= words.nbytes
    if words[_MAGIC] != _MAGIC_WORD or words[_LAYOUT_AT] != _LAYOUT or not fits:
        raise Unavailable(f"{path.name} is not a metrics page of this version of Seaway; remove it and start again.")


def _read_slot(words: memoryview[int], slot: int) -> list[int]:
    at = _at(slot)
    end = at + _STRIDE
    copy = b""
    for _ in range(_READ_ATTEMPTS):
        # One copy of bytes is over before a busy writer begins its next record; a list of numbers is not.
        copy = words[at:end].tobytes()
        sequence = int.from_bytes(copy[:8], sys.byteorder)
        if sequence % 2 == 0 and words[at + _SEQUENCE] == sequence:
            break
    # Else the writer was killed or suspended in the middle of a record: each cell is still true by itself.
    return memoryview(copy).cast("Q").tolist()


def _key(values: list[int]) -> tuple[str, int]:
    name = b"".join(word.to_bytes(8, "little") for word in values[_NAME:_OUTCOMES])
    return name[: values[_NAME_LENGTH]].decode(), values[_VERSION]


def _snapshot(values: list[int]) -> SeriesSnapshot:
    model, version = _key(values)
    places = range(_BATCH_SIZES, _BATCH_SIZES + 5 * (_EXACT_BATCH_SIZES + 1), 5)
    return SeriesSnapshot(
        model=model,
        version=version,
        outcomes={outcome: values[at] for outcome, at in _OUTCOME_AT.items()},
        queue=_histogram(values, _QUEUE),
        batch=_histogram(values, _BATCH),
        inference=_histogram(values, _INFERENCE),
        request=_histogram(values, _REQUEST),
        success_ns=values[_SUCCESS_NS],
        fail_ns=values[_FAIL_NS],
        rows=values[_ROWS],
        last_inference_ms=values[_LAST_NS] // 1_000_000,
        batches={values[at]: Executions(*values[at + 1 : at + 5]) for at in places if values[at + 1]},
    )


def _histogram(values: list[int], histogram: int) -> Histogram:
    later = _LATER + histogram * _N_LATER
    first, sum_ns = values[_HISTOGRAMS + 2 * histogram : _HISTOGRAMS + 2 * histogram + 2]
    return Histogram((first, *values[later : later + _N_LATER]), sum_ns)
