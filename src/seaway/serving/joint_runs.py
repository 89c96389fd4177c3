"""Whether samples of several requests may share a run in the CPU lane: looked at once, at deploy (ADR 14).

A run of four samples costs many models less than four runs: their weights come through the caches once. Requests that
wait anyway gain by it and nobody waits for company. It must not change what anybody is answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import structlog

from seaway.errors import Cancelled, SeawayError
from seaway.inputs.base import Array, Feeds
from seaway.runtimes import operators
from seaway.runtimes.base import RunHandle
from seaway.serving import parity
from seaway.serving.batch_probe import concatenated, other_samples
from seaway.serving.calibration import median
from seaway.serving.predictor import Predictor
from seaway.serving.weight_files import trial
from seaway.types import JointRuns

log = structlog.get_logger()

ROWS = (1, 2, 4, 8)
"""Sizes that are measured: what four cost less than two each, three do, too."""
_LEAST_NS, _MOST_NS = 200_000, 20_000_000
"""Of a run alone. Below, stacking costs as much; above, several together would make all of them wait too long."""
_MOST_TOGETHER_NS = 40_000_000
"""CPU time of a run of several."""
_WORTH_MORE, _WORTH = 0.97, 0.93
"""Of the time of a sample with half as many, and alone: what is gained less often is noise."""
_FEW_ROUNDS, _MANY_ROUNDS, _ENOUGH_SECONDS = 3, 100, 0.6
_MOST_SECONDS = 10.0
"""A trial that isn't over by then is ended: each sample runs alone."""
_MANY_NUMBERS = 1 << 17
"""In a sample: stacking larger ones costs too much."""
_SIZES = (np.nan, np.inf, 1e30, -1e30, 1e4, 1e2, 1.0, 0.0, 1e-3)
"""Of fractions in samples that others must not notice: whatever a threshold is, one of them is beyond it."""
_CLICKS = (30.0, 1e4)
_MANY_INPUTS, _ONE_AT_A_TIME = 4, ((1e30, 255), (1e2, 9_999), (1e-3, -1))
_COUNTS = (1, 2, 9, 99, 255, 999, 9_999, 1_000_000, -1)
"""The largest of whole numbers in them."""


def look(predictor: Predictor, package: Path, run_ns: int, note: Path | None) -> JointRuns:
    """What came of trying it. Whatever goes wrong means that there are no joint runs; no deploy fails by it.

    `run_ns`: CPU time of a run of the sample. `note` is a file that is there while it is tried: where it is there
    before, a process has died of that.
    """
    why = _obstacle(predictor, package, run_ns)
    if why:
        return JointRuns(why=why)
    try:
        with trial(note), parity.limited(_MOST_SECONDS) as handle:
            found = _try(predictor, handle)
    except (SeawayError, MemoryError, OSError) as error:
        found = JointRuns(why=f"trying it ended with: {str(error).rstrip('.') or type(error).__name__}")
    except Exception as error:  # whatever it is, each sample can run alone
        log.exception("worker.no_joint_runs")
        found = JointRuns(why=f"trying it ended with {type(error).__name__}")
    log.info("worker.joint_runs", **asdict(found))
    return found


def _obstacle(predictor: Predictor, package: Path, run_ns: int) -> str:
    """Why it isn't tried, as a part of a sentence; empty: it is."""
    if not predictor.signature.batchable:
        return "the model takes one sample at a time"
    if not _LEAST_NS <= run_ns <= _MOST_NS:
        return "a run is too short for that" if run_ns < _LEAST_NS else "a run is too long for that"
    if any(spec.datatype == "BYTES" for spec in (*predictor.signature.inputs, *predictor.signature.outputs)):
        return "it takes or gives texts"
    found = operators(package, predictor.spec)
    if found.entangling is None:
        return "nobody knows whether its operators keep samples apart"
    entangling = sorted(found.entangling | found.with_subgraphs)
    if entangling:
        return f"with {' and '.join(entangling[:3])} a sample's answer could depend on the others"
    return ""


def _try(predictor: Predictor, handle: RunHandle) -> JointRuns:
    """Raises Cancelled where it takes too long, and what running raises."""
    names = [spec.name for spec in predictor.signature.outputs]
    typical = dict(parity.typical(predictor, names, handle))
    (sample, *_) = predictor.prepare(predictor.payload(predictor.sample())).samples.feeds
    same = all(np.array_equal(array, typical[name]) for name, array in sample.items())
    if max(sum(array.size for array in feeds.values()) for feeds in (sample, typical)) > _MANY_NUMBERS:
        return JointRuns(why="its samples are too large for that")
    for first in (typical,) if same else (typical, sample):
        why = _difference(predictor, first, names, handle) or _notices(predictor, first, names, handle)
        if why:
            return JointRuns(why=why)
    times = _times(predictor, typical, names, handle)
    alone = times[1]
    rows = 1
    for fewer, more in pairwise(ROWS):
        if more * times[more] > _MOST_TOGETHER_NS or times[more] > times[fewer] * _WORTH_MORE:
            break
        rows = more
    if rows == 1 or times[rows] > alone * _WORTH:
        return JointRuns(alone_ns=alone, together_ns=min(times.values()), why="it is no faster so")
    numbers = rows * sum(array[:1].size for array in typical.values())
    return JointRuns(rows, numbers, alone, times[rows])


def _difference(predictor: Predictor, first: Feeds, names: Sequence[str], handle: RunHandle) -> str:
    """What tells answers in company from those alone, as a part of a sentence; empty: at most their last digits."""
    run = predictor.session.run
    samples, alone = _answered(predictor, (first, *other_samples(first, None)), names, handle)
    if len(samples) < 2:
        return "no second sample is known that it answers, to compare them alone and in company"
    for order in _orders(len(samples)):
        together = run(concatenated([samples[number] for number in order]), names, handle)
        for at, name in enumerate(names):
            expected = [alone[number][at] for number in order]
            if not same_rows(expected, together[at]):
                return f"its answers ({name!r}) would be others"
    return ""


def _notices(predictor: Predictor, first: Feeds, names: Sequence[str], handle: RunHandle) -> str:
    """What tells answers beside extreme samples from those alone, as a part of a sentence; empty: nothing."""
    run = predictor.session.run
    victims, alone = _answered(predictor, (first, *other_samples(first, None)), names, handle)
    for extreme in _extremes(first):
        try:
            run(extreme, names, handle)
        except SeawayError:
            _raise_if_ended(handle)
            refused = True
        else:
            refused = False
        try:
            together = run(concatenated([extreme, *victims, extreme]), names, handle)
        except SeawayError:
            _raise_if_ended(handle)
            continue
        if refused:
            return "what is refused alone would be answered in company"
        for at, name in enumerate(names):
            if not same_rows([answers[at] for answers in alone], together[at][1:-1]):
                return f"its answers ({name!r}) would be others beside {_described(extreme)}"
    return ""


def _answered(
    predictor: Predictor, samples: Iterable[Feeds], names: Sequence[str], handle: RunHandle
) -> tuple[list[Feeds], list[list[Array]]]:
    """Those of the samples that it answers, and what; not every one that can be made up is a sound one."""
    answered, alone = [], []
    for feeds in samples:
        try:
            answers = predictor.session.run(feeds, names, handle)
        except SeawayError:
            _raise_if_ended(handle)
            continue
        answered.append({name: array[:1] for name, array in feeds.items()})
        alone.append(answers)
    return answered, alone


def _raise_if_ended(handle: RunHandle) -> None:
    if handle.terminated:
        raise Cancelled("It took too long.")


def _extremes(first: Feeds) -> Iterator[Feeds]:
    """Samples of the same shape, of every size that numbers may have, in all inputs and in one alone."""
    chance = np.random.default_rng(1)
    for size, count in zip(_SIZES, _COUNTS, strict=True):
        yield {name: _of_size(array, size, count, chance) for name, array in first.items()}
    for height in _CLICKS:
        yield {name: _click(array, height, chance) for name, array in first.items()}
    for one in list(first)[:_MANY_INPUTS] if len(first) > 1 else ():
        for size, count in _ONE_AT_A_TIME:
            yield first | {one: _of_size(first[one], size, count, chance)}


def _click(array: Array, height: float, chance: np.random.Generator) -> Array:
    """Noise with one number that is far off, which a model that looks at how large samples are in themselves still
    sees; whole numbers stay."""
    if array.dtype.kind != "f" or not array.size:
        return array
    with np.errstate(all="ignore"):
        clicked = np.asarray(chance.uniform(-1.0, 1.0, array.shape), array.dtype)
        clicked.reshape(-1)[array.size // 2] = height
    return clicked


def _of_size(array: Array, size: float, count: int, chance: np.random.Generator) -> Array:
    kind = array.dtype.kind
    if kind == "f":
        with np.errstate(all="ignore"):  # fp16 ends at 65,504
            return np.asarray(chance.uniform(0.5, 1.0, array.shape) * size, array.dtype)
    if kind in "iu":
        info = np.iinfo(array.dtype)
        bound = int(min(max(count, info.min), info.max))
        return np.asarray(chance.integers(min(0, bound), max(0, bound), array.shape, endpoint=True), array.dtype)
    return np.asarray(chance.random(array.shape) < 0.5)


def _described(feeds: Feeds) -> str:
    largest = [float(np.abs(array.astype(np.float64)).max(initial=0)) for array in feeds.values()]
    return f"numbers of {max(largest):g}"


def same_rows(expected: Sequence[Array], together: Array) -> bool:
    """Whether the answer to several samples holds what each was answered alone, but for last digits."""
    counts = [len(one) for one in expected]
    if together.shape[:1] != (sum(counts),):
        return False
    ends = np.cumsum(counts)
    parts = [together[end - len(one) : end] for one, end in zip(expected, ends, strict=True)]
    return all(parity.close(one, part, least=0.0) for one, part in zip(expected, parts, strict=True))


def _orders(samples: int) -> Iterator[list[int]]:
    """Which samples meet: of each size that is measured and of odd ones, each sample at another place."""
    for rows in (*ROWS[1:], 3, 5):
        yield [number % samples for number in range(rows)]
        yield [-number % samples for number in range(rows, 2 * rows)]
    for number in range(samples):
        yield [number] * ROWS[-1]  # a part of the model that has room for a few alike


def _times(predictor: Predictor, feeds: Feeds, names: Sequence[str], handle: RunHandle) -> dict[int, int]:
    """Nanoseconds of CPU time of a sample by how many run together, in turns: a machine is never the same for long."""
    run = predictor.session.run
    stacked = {rows: concatenated([feeds] * rows) for rows in ROWS}
    taken: dict[int, list[int]] = {rows: [] for rows in ROWS}
    began = time.monotonic()
    for number in range(_MANY_ROUNDS):
        if number >= _FEW_ROUNDS and time.monotonic() - began > _ENOUGH_SECONDS:
            break
        for rows, several in stacked.items():
            start = time.thread_time_ns()
            run(several, names, handle)
            taken[rows].append((time.thread_time_ns() - start) // rows)
    return {rows: median(times) for rows, times in taken.items()}
