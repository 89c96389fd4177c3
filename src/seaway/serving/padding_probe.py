"""Looks, when a version is opened, whether padding changes what it answers.

A mask in the signature doesn't say that the model heeds it: a convolution sees its neighbours, a pooled maximum or a
last token may be padding's, and an exporter may have dropped the mask. What two texts of a request, or of a batch, are
answered must not depend on which of them is longer.
"""

from __future__ import annotations

import contextlib

import numpy as np

from seaway.errors import SeawayError
from seaway.inputs.base import Array, Feeds, InputType, Padding
from seaway.runtimes.base import DeviceSession

_TEXTS = ("a longer text, of several words and two sentences. Here is the other.", "a longer text", "a b", "a")
"""From the longest that is accepted: a package may allow few tokens or characters."""


def padding_matters(session: DeviceSession, padding: Padding | None, given: InputType) -> str:
    """Why texts of different lengths have to run apart; empty: they needn't. `given` makes the tensors of a text."""
    if padding is None:
        return "it has no mask, or pads in front"
    row = _tokens(given)
    if row is None:
        return "no text is known to try it with"
    longest = row[padding.mask].shape[1]
    widths = sorted({min(2, longest), -(-longest // 2), longest})
    if len(widths) == 1:
        return ""
    names = [output.name for output in session.signature.outputs]
    short = [{name: array[:, :width] for name, array in row.items()} for width in widths]
    try:
        alone = [session.run(feeds, names, None) for feeds in short]
        together = session.run(_stacked(short, padding, longest), names, None)
    except SeawayError as error:
        return str(error)
    for at, name in enumerate(names):
        if together[at].shape[:1] != (len(alone),):
            return f"the output {name!r} doesn't have a row for each text"
        for number, answers in enumerate(alone):
            if not _holds(answers[at], together[at][number : number + 1], session):
                return f"the output {name!r} of {widths[number]} tokens is another when they are padded to {longest}"
    return ""


def _tokens(given: InputType) -> Feeds | None:
    for text in _TEXTS:
        with contextlib.suppress(SeawayError):
            (row,) = given.prepare([text]).feeds
            return row
    return None


def _stacked(rows: list[Feeds], padding: Padding, width: int) -> Feeds:
    """The rows under each other, each filled up to `width`."""
    return {
        name: np.concatenate([
            np.pad(row[name], ((0, 0), (0, width - row[name].shape[1])), constant_values=padding.fills.get(name, 0))
            for row in rows
        ])
        for name in rows[0]
    }  # fmt: skip


def _holds(alone: Array, padded: Array, session: DeviceSession) -> bool:
    """Whether the padded answer is the one given alone, but for parts that belong to the padding."""
    if alone.ndim != padded.ndim or any(one > other for one, other in zip(alone.shape, padded.shape, strict=True)):
        return False
    return equal_answers(alone, padded[tuple(slice(size) for size in alone.shape)], session)


def equal_answers(one: Array, other: Array, session: DeviceSession) -> bool:
    """Whether two answers to the same input differ by no more than the order of sums may change.

    In fp32 on a CPU that is little; elsewhere a part of what the numbers are like.
    """
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fiub":
        return bool((one == other).all())
    first, second = one.astype(np.float64), other.astype(np.float64)
    apart = (first != second) & ~(np.isnan(first) & np.isnan(second))
    if not apart.any():
        return True
    if not (np.isfinite(first[apart]) & np.isfinite(second[apart])).all():
        return False
    size = np.abs(first)
    finite = size[np.isfinite(size)]
    if session.dtype == "fp32" and session.device == "cpu":
        allowed = 1e-4 + 1e-3 * size + 1e-5 * finite.max(initial=0.0)
    else:
        usual = float(np.sqrt((finite**2).mean())) if finite.size else 0.0
        allowed = (0.01 if session.dtype == "fp32" else 0.1) * (size + usual)
    return bool((np.abs(first - second) <= allowed)[apart].all())
