"""What a worker does before it serves: open its version, measure it if nobody has, and share its weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from seaway import faults
from seaway.packages.manifest import verify
from seaway.serving import batch_start, calibration, joint_runs, process
from seaway.serving.predictor import Predictor
from seaway.serving.rewriting import try_rewritten
from seaway.serving.shared_weights import open_sharing
from seaway.serving.weight_files import JOINING, TRYING, turn
from seaway.types import Calibration, CalibrationOrder, Choice, JointRuns, WorkerConfig

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A version that is ready to serve, and what is known of several samples in one run."""

    predictor: Predictor
    curve: batch_start.Curve
    """For the batch lane."""
    joint: JointRuns | None
    """For the CPU lane; None: each request runs alone."""


def open_version(config: WorkerConfig, measured: Callable[[Calibration, Choice], None]) -> Opened:
    """Load the version, and measure it if nobody has; `measured` is told what came out then.

    Raises what is wrong with it: InvalidPackage, WarmUpFailed, ConfigurationError.
    """
    began = time.monotonic()
    verify(config.package, config.manifest)
    if config.calibrate is None:

        def open_from(prepared_in: Path | None) -> Predictor:
            return _open(config, prepared_in, rewritten=config.rewritten)

        if config.weights is None:
            return Opened(open_from(None), config.curve, config.joint)
        return Opened(open_sharing(open_from, config.package, config.weights), config.curve, config.joint)
    predictor = _open(config, None, rewritten=False)
    load_seconds = time.monotonic() - began
    with turn(config.weights.parent) if config.weights is not None else contextlib.nullcontext():
        predictor, found = _measure(config, config.calibrate, predictor, load_seconds)
    order = config.calibrate
    choice = calibration.choose(found, cores=order.cores, asked=order.asked, gateways=order.gateways)
    log.info("worker.calibrated", placement=choice.placement, engines=choice.engines, why=choice.why)
    measured(found, choice)
    return Opened(predictor, found.curve, calibration.joint_runs(found, order.asked))


def _measure(
    config: WorkerConfig, order: CalibrationOrder, predictor: Predictor, load_seconds: float
) -> tuple[Predictor, Calibration]:
    """What the version costs, and the predictor that is best to serve with."""
    rewriting = None
    if config.batching is None and order.rewrites != "never":
        predictor, rewriting = try_rewritten(
            predictor, config.package, lambda: _open(config, None, rewritten=True),
            config.weights.with_suffix(TRYING) if config.weights is not None else None,
            uncertain=order.rewrites == "always",
        )  # fmt: skip
    found = calibration.measure(predictor, config.package, load_seconds=load_seconds, machine=order.machine)
    found = replace(found, rewriting=rewriting)
    if config.batching is not None:
        return predictor, batch_start.calibrate(predictor, config.package, found, config.batching)
    note = config.weights.with_suffix(JOINING) if config.weights is not None else None
    found = replace(found, joint=joint_runs.look(predictor, config.package, found.run_ns, note))
    if config.weights is not None:
        rewritten = predictor.rewritten

        def open_from(prepared_in: Path | None) -> Predictor:
            return _open(config, prepared_in, rewritten=rewritten)

        # Sharing decides with how many processes there are to be, and only several share.
        hoped = calibration.choose(replace(found, shares_weights=True), cores=order.cores, asked=order.asked)
        if hoped.processes > 1:
            plain, predictor = predictor, open_sharing(open_from, config.package, config.weights, predictor)
            found = replace(found, shares_weights=predictor is not plain)
    return predictor, found


def _open(config: WorkerConfig, prepared_in: Path | None, *, rewritten: bool) -> Predictor:
    started = time.monotonic()
    batching = config.batching
    predictor = Predictor.open(
        config.package, model=config.model, version=config.version, max_body_bytes=config.max_body_bytes,
        threads=len(process.available_cpus()) if batching else 1,
        device=(batching.device or "auto") if batching else "cpu",
        dtype=(batching.dtype or "auto") if batching else "auto",
        prepared_in=prepared_in, rewritten=rewritten, stacks=batching is not None,
    )  # fmt: skip
    predictor.warm_up()
    log.info("worker.loaded", seconds=round(time.monotonic() - started, 3), engines=config.engines, rewritten=rewritten)
    if predictor.why_alone:
        log.info("worker.texts_run_apart", reason=predictor.why_alone)
    faults.point("worker.loaded")
    return predictor
