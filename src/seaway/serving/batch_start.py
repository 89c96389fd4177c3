"""Starts a worker's batch lane: measures batches where nothing is known of them, and chooses the limits by that."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import structlog

from seaway.errors import WarmUpFailed
from seaway.serving import parity, process
from seaway.serving.batch_curve import measure_curve
from seaway.serving.batch_lane import BatchLane, BatchOwner
from seaway.serving.batch_limits import AdaptiveLimits, BatchLimits, CurvePoint, choose_limits
from seaway.serving.batch_probe import check_rows_apart, find_sequences
from seaway.serving.batching import QueueBounds
from seaway.serving.collate import Collator, row_numbers
from seaway.serving.predictor import Predictor, Prepared
from seaway.types import Calibration, ServingSettings

log = structlog.get_logger()

Curve = tuple[tuple[int, int, float, int], ...]
MAX_WAITING_ROWS = 65_536
MAX_WAITING_BYTES = 1 << 30
_MAX_PREPARERS = 4
_ANY_WIDTH = 1 << 62
_SMALL_NUMBERS = 1024
"""In a row: a sample that was made up may have one number, which says nothing of real ones."""


def calibrate(predictor: Predictor, package: Path, measured: Calibration, asked: ServingSettings) -> Calibration:
    """`measured` with what batches cost, and how far their dtype's answers are from those of the CPU in fp32.

    Raises WarmUpFailed for a model that takes one sample at a time, and where not one batch fits.
    """
    _check_batchable(predictor)
    session = predictor.session
    sample = predictor.prepare(predictor.payload(predictor.sample()))
    padding = predictor.padding
    check_rows_apart(session, sample, padding)
    curve = measure_curve(
        session, sample, padding,
        max_rows=asked.max_batch_rows or 1,
        width=padding.longest if padding is not None else _unpadded_width(predictor, sample),
    )  # fmt: skip
    points: Curve = tuple(
        (point.rows, point.width, point.seconds if math.isfinite(point.seconds) else -1.0, point.n_bytes)
        for point in curve
    )
    measured = replace(measured, curve=points, device=session.device, dtype=session.dtype)
    if session.device == "cpu" and session.dtype == "fp32":
        return measured
    found = parity.against_cpu(session, package, predictor.spec, sample.samples.feeds)
    log.info("batch.parity", dtype=session.dtype, max_difference=found.max_difference, min_cosine=found.min_cosine)
    return replace(measured, max_difference=found.max_difference, min_cosine=found.min_cosine)


def open_lane(
    predictor: Predictor,
    asked: ServingSettings,
    curve: Curve,
    max_queue_size: int,
    owner: BatchOwner,
) -> BatchLane:
    """The lane, to be started. Raises WarmUpFailed as `calibrate` does."""
    _check_batchable(predictor)
    sample = predictor.prepare(predictor.payload(predictor.sample()))
    limits = _limits(predictor, asked, curve, sample)
    sequences = find_sequences(predictor.session, sample, predictor.padding)
    collator = Collator(
        predictor.padding, sequences, sized=not predictor.fixed_size, even=bool(predictor.why_alone)
    )  # fmt: skip
    log.info(
        "batch.lane", device=predictor.session.device, dtype=predictor.session.dtype,
        max_rows=limits.max_rows, max_tokens=limits.max_tokens, preparers=_preparers(predictor),
    )  # fmt: skip
    return BatchLane(
        predictor,
        AdaptiveLimits(
            limits,
            latency_target_seconds=asked.latency_target_seconds,
            fastest_seconds=min((seconds for _, _, seconds, _ in curve if seconds >= 0), default=0.0),
        ),
        QueueBounds(max_queue_size, MAX_WAITING_ROWS, MAX_WAITING_BYTES),
        owner=owner, collator=collator, preparers=_preparers(predictor),
    )  # fmt: skip


def _check_batchable(predictor: Predictor) -> None:
    if strings := [spec.name for spec in predictor.signature.inputs if spec.datatype == "BYTES"]:
        raise WarmUpFailed(
            f"The model's input {strings[0]!r} takes strings, which no batch is made of; deploy it with lane cpu."
        )
    if not predictor.signature.batchable:
        raise WarmUpFailed(
            "The model's first dimension is fixed; export it with a variable one, or deploy it with lane cpu."
        )


def _unpadded_width(predictor: Predictor, sample: Prepared) -> int:
    """What stands for the length of a sample that isn't padded: its numbers, where others may have more or less."""
    return 1 if predictor.fixed_size else row_numbers(sample.samples.feeds[0])


def _limits(predictor: Predictor, asked: ServingSettings, curve: Curve, sample: Prepared) -> BatchLimits:
    """What calibration allows, and within that what was asked for."""
    width = _unpadded_width(predictor, sample)
    points = [
        CurvePoint(rows, width, seconds if seconds >= 0 else math.inf, n_bytes)
        for rows, width, seconds, n_bytes in curve
    ]
    chosen = choose_limits(
        points,
        memory_bytes=predictor.session.memory_bytes() or process.total_memory_bytes(),
        lengths_differ=predictor.padding is not None,
        latency_target_seconds=asked.latency_target_seconds,
    )
    padding = predictor.padding
    longest = padding.longest if padding is not None else None
    # Points that would have taken too long were not measured: rows that are asked for come at the tokens' expense.
    rows = asked.max_batch_rows or chosen.max_rows
    if longest is None:
        rows = min(rows, chosen.max_rows)
        # Larger samples than the measured one ride with fewer others; how many fit was measured with that one.
        if not predictor.fixed_size:
            tokens, longest = asked.max_batch_tokens or rows * max(width, _SMALL_NUMBERS), _ANY_WIDTH
        else:
            tokens = None
            if asked.max_batch_tokens is not None:
                rows = min(rows, max(1, asked.max_batch_tokens // row_numbers(sample.samples.feeds[0])))
    elif asked.max_batch_tokens is not None:
        tokens = asked.max_batch_tokens
    else:
        tokens = chosen.max_tokens
    return replace(
        chosen, max_rows=rows, max_tokens=tokens, max_width=longest,
        max_delay_ns=int((asked.max_queue_delay_seconds or 0.0) * 1e9),
        preferred_sizes=tuple(size for size in asked.preferred_batch_rows or () if size <= rows),
        bucketing=asked.length_bucketing is not False,
        exact=padding.exact if padding is not None else not predictor.fixed_size,
    )  # fmt: skip


def _preparers(predictor: Predictor) -> int:
    """Threads that prepare: one beside a CPU that runs the model too, more where a GPU waits for them."""
    if predictor.session.device == "cpu":
        return 1
    return min(_MAX_PREPARERS, max(1, (os.cpu_count() or 2) // 2))
