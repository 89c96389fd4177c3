"""Looks, before a version is served in batches, whether its samples may ride together, and where lengths show.

A signature says that the first dimension varies, not that it counts samples, nor that a sample's answer is its own. A
model that subtracts the mean of its batch would give everybody answers that depend on strangers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import structlog

from seaway.errors import SeawayError, WarmUpFailed
from seaway.inputs.base import Array, Feeds, Padding
from seaway.runtimes.base import DeviceSession
from seaway.serving.collate import Sequences
from seaway.serving.padding_probe import equal_answers
from seaway.serving.predictor import Prepared

log = structlog.get_logger()

_WIDTHS = (6, 11)
_TOGETHER = "Its samples can't ride together: {}. Deploy it with lane cpu."


def check_rows_apart(session: DeviceSession, sample: Prepared, padding: Padding | None) -> None:
    """Raises WarmUpFailed for a model whose answer to a sample depends on what else is in its batch."""
    names = [output.name for output in session.signature.outputs]
    first = {name: array[:1] for name, array in sample.samples.feeds[0].items()}
    samples, alone = [first], [_run(session, first, names)]
    for other in other_samples(first, padding):
        # Not every sample that can be made up is a sound one.
        with contextlib.suppress(SeawayError):
            answers = _run(session, other, names)
            samples.append(other)
            alone.append(answers)
    if len(samples) == 1:
        what = "no second one is known that it answers, to compare them alone and in company"
        raise WarmUpFailed(_TOGETHER.format(what))
    order = [*range(len(samples)), *range(len(samples) - 1)]  # not the same from behind
    try:
        together = _run(session, concatenated([samples[number] for number in order]), names)
    except SeawayError as error:
        raise WarmUpFailed(_TOGETHER.format(f"several at once are refused ({str(error).rstrip('.')})")) from error
    for at, name in enumerate(names):
        found = together[at]
        if found.shape != (len(order), *alone[0][at].shape[1:]):
            shapes = f"{list(alone[0][at].shape)} for one sample, {list(found.shape)} for {len(order)}"
            raise WarmUpFailed(_TOGETHER.format(f"the output {name!r} has shape {shapes}"))
        for row, number in enumerate(order):
            if not equal_answers(alone[number][at], found[row : row + 1], session):
                raise WarmUpFailed(
                    _TOGETHER.format(f"in company, the output {name!r} of a sample is another than alone")
                )


def find_sequences(session: DeviceSession, sample: Prepared, padding: Padding | None) -> Sequences | None:
    """The axes of each output that are as long as the texts; None where that can't be said, so that only texts of one
    length may ride together.
    """
    if padding is None:
        return {}
    names = [output.name for output in session.signature.outputs]
    if padding.longest == 1:
        return {}
    widths = _WIDTHS if padding.longest >= _WIDTHS[1] else (padding.longest - 1, padding.longest)
    shapes = [
        [array.shape for array in _run(session, _of_width(sample.samples.feeds[0], padding, width), names)]
        for width in widths
    ]
    sequences: dict[str, tuple[int, ...]] = {}
    for name, short, long in zip(names, *shapes, strict=True):
        pairs = list(zip(short, long, strict=True)) if len(short) == len(long) else [(0, 1)]
        changing = tuple(axis for axis, (one, other) in enumerate(pairs) if one != other)
        if any(pairs[axis] != tuple(widths) for axis in changing):
            log.info("batch.one_length_at_a_time", output=name, shapes=[list(short), list(long)])
            return None
        if changing:
            sequences[name] = changing
    return sequences


def _run(session: DeviceSession, feeds: Feeds, names: Sequence[str]) -> list[Array]:
    session.check(feeds)
    outputs: list[Array] = session.collect(session.launch(session.stage(feeds), names))
    return outputs


def _of_width(feeds: Feeds, padding: Padding, width: int) -> Feeds:
    made = {name: array[:1] for name, array in feeds.items()}
    for name in padding.fills:
        array = made[name]
        made[name] = np.ones((1, width), array.dtype) if name == padding.mask else np.resize(array, (1, width))
    return made


def other_samples(first: Feeds, padding: Padding | None) -> Iterator[Feeds]:
    """Samples of the same shape that differ from the first one and from each other."""
    chance = np.random.default_rng(0)
    seen = [first]
    for make in _MADE:
        other = {
            name: array if padding is not None and name == padding.mask else make(array, chance).astype(array.dtype)
            for name, array in first.items()
        }
        if not any(all(np.array_equal(other[name], known[name]) for name in first) for known in seen):
            seen.append(other)
            yield other


def _less(array: Array, _chance: np.random.Generator) -> Any:
    """Numbers near those given: smaller ids, a little larger fractions; a flag is turned."""
    if array.dtype.kind == "b":
        return ~array
    return np.where(array > 0, array - 1, array) if array.dtype.kind in "iu" else array * 1.5 + 0.25


def _drawn(array: Array, chance: np.random.Generator) -> Any:
    """Numbers of the same range, by chance."""
    if array.dtype.kind == "b":
        return chance.random(array.shape) < 0.5
    if array.dtype.kind in "iu":
        return chance.integers(0, max(1, int(array.max(initial=0))), array.shape, endpoint=True)
    return array + 3 * chance.standard_normal(array.shape)


def _wide(array: Array, chance: np.random.Generator) -> Any:
    """Positive numbers, some of them large: what is divided by a batch's maximum shows it."""
    if array.dtype.kind in "biu":
        return _drawn(array, chance)
    return np.abs(array) + 10 * np.abs(chance.standard_normal(array.shape))


_MADE: tuple[Callable[[Array, np.random.Generator], Any], ...] = (_less, _drawn, _wide)


def concatenated(samples: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([feeds[name] for feeds in samples]) for name in samples[0]}
