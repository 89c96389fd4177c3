"""Where versions run: what was measured of them, what was chosen by that, and what gateways gave up since."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from seaway.config import Settings
from seaway.registry import Registry
from seaway.serving import calibration, process
from seaway.types import (
    Calibration,
    CalibrationOrder,
    Choice,
    DeploymentRevision,
    InlineSpec,
    JointRuns,
    ModelVersion,
    ServedVersion,
    ServingSettings,
)

log = structlog.get_logger()

MAX_BATCH_ROWS = {False: 32, True: 256}
"""Of one batch, where nobody says; whether there is a GPU. Calibration may find less."""
_ON_GPUS = frozenset({"torch", "transformers"})
"""Runtimes that use a GPU where there is one. ONNX Runtime needs another package for it: there it must be asked."""
Evidence = tuple[str, str]
"""Digest of an artifact, and the machine that it was measured on."""


class Placements:
    """The controller's memory of them. Lives on control's event loop; the registry is asked in threads."""

    def __init__(self, settings: Settings, registry: Registry, cores: int) -> None:
        self._settings = settings
        self._registry = registry
        self._cores = cores
        # They tell each other in the page that isolation has.
        self._gateways = (settings.gateways or 1) if settings.isolation and hasattr(os, "sched_setaffinity") else 0
        self._machine = calibration.machine(cores, settings.graph_rewrites)
        self._measured: dict[Evidence, Calibration] = {}
        self._unsaved: dict[Evidence, Calibration] = {}
        self._looked_up: set[Evidence] = set()
        self._choices: dict[int, Choice] = {}
        self._demoted: dict[int, str] = {}

    # ------------------------------------------------------------------ what is known

    async def recall(self, revision: DeploymentRevision, version: ModelVersion) -> None:
        """Look up what an earlier deployment measured of these bytes on this machine."""
        evidence = self.evidence(revision, version)
        if evidence not in self._looked_up:
            found = await asyncio.to_thread(self._registry.find_calibration, *evidence)
            self._looked_up.add(evidence)
            if found is not None:
                self._measured.setdefault(evidence, found)

    def learn(self, digest: str, measured: Calibration) -> bool:
        """Take what a worker measured; False when something else is known already, by which others were placed."""
        evidence = (digest, measured.machine)
        known = self._measured.setdefault(evidence, measured)
        if known == measured:
            self._unsaved[evidence] = measured
        return known == measured

    def evidence(self, revision: DeploymentRevision, version: ModelVersion) -> Evidence:
        """Under what a measurement for this revision is kept: a batch's cost depends on device and largest batch."""
        asked = self.effective(revision, version)
        if asked.lane != "batch":
            return version.digest, self._machine
        return version.digest, f"{self._machine}; batches of {asked.max_batch_rows} on {asked.device} in {asked.dtype}"

    def demote(self, served: Iterable[ServedVersion], revision_id: int, reason: str) -> None:
        """Take a gateway's word that it no longer runs one of the `served` revisions itself."""
        for one in served:
            if one.revision == revision_id and one.inline is not None:
                self._demoted.setdefault(revision_id, reason)
                log.warning("placement.demoted", model=one.model, revision=revision_id, reason=reason)

    def forget_all_but(self, wanted: Iterable[DeploymentRevision]) -> None:
        ids = {revision.id for revision in wanted}
        self._choices = {revision: choice for revision, choice in self._choices.items() if revision in ids}
        self._demoted = {revision: reason for revision, reason in self._demoted.items() if revision in ids}

    async def keep_evidence(self, wanted: Iterable[DeploymentRevision]) -> None:
        """Write down what workers measured and what gateways gave up. Raises Unavailable; the next pass goes on."""
        for evidence, measured in list(self._unsaved.items()):
            await asyncio.to_thread(self._registry.add_calibration, evidence[0], measured, actor="control")
            del self._unsaved[evidence]
        for revision in wanted:
            if revision.id in self._demoted and not revision.demoted:
                await asyncio.to_thread(self._registry.record_demotion, revision.id, self._demoted[revision.id])

    # ------------------------------------------------------------------ what follows from it

    def effective(self, revision: DeploymentRevision, version: ModelVersion) -> ServingSettings:
        """What the deployment says, else the package, else the server; None where calibration decides."""
        package = version.spec.get("serving") or {}
        asked, default = revision.settings, self._settings
        lane, device = self.lane_and_device(version, asked)

        def first(name: str, otherwise: Any = None) -> Any:
            return next((one for one in (getattr(asked, name), package.get(name)) if one is not None), otherwise)

        return ServingSettings(
            engines=asked.engines or package.get("engines") or default.engines,
            processes=asked.processes or package.get("processes"),
            max_queue_size=asked.max_queue_size or package.get("max_queue_size") or default.max_queue_size,
            timeout_seconds=asked.timeout_seconds or package.get("timeout_seconds") or default.timeout_seconds,
            placement=asked.placement or package.get("placement") or default.placement,
            joint_runs=asked.joint_runs or package.get("joint_runs") or default.joint_runs,
            lane=lane,
            device=device,
            dtype=first("dtype", "auto"),
            max_batch_rows=first("max_batch_rows", MAX_BATCH_ROWS[device != "cpu"]),
            max_batch_tokens=first("max_batch_tokens"),
            preferred_batch_rows=first("preferred_batch_rows"),
            max_queue_delay_seconds=first("max_queue_delay_seconds", 0.0),
            latency_target_seconds=first("latency_target_seconds"),
            length_bucketing=first("length_bucketing", True),
        )

    def lane_and_device(self, version: ModelVersion, asked: ServingSettings) -> tuple[str, str]:
        """Which lane serves a version, and where it would run in the batch lane."""
        package, default = version.spec.get("serving") or {}, self._settings
        device = asked.device or package.get("device") or default.device
        if device == "auto" and not process.has_gpu():
            device = "cpu"
        lane = asked.lane or package.get("lane") or default.lane
        if lane == "auto":
            lane = "batch" if version.runtime in _ON_GPUS and device != "cpu" else "cpu"
        return lane, device

    def choice(self, revision: DeploymentRevision, version: ModelVersion) -> Choice | None:
        """How a revision is placed, the same as long as it is wanted; None until its version has been measured."""
        measured = self._measured.get(self.evidence(revision, version))
        if revision.id not in self._choices and measured is not None:
            asked = self.effective(revision, version)
            self._choices[revision.id] = calibration.choose(
                measured, cores=self._cores, asked=asked, gateways=self._gateways
            )
        return self._choices.get(revision.id)

    def order(self, revision: DeploymentRevision, version: ModelVersion) -> CalibrationOrder | None:
        """What a worker that starts now should measure by; None when that is done."""
        if self.choice(revision, version) is not None:
            return None
        asked, machine = self.effective(revision, version), self.evidence(revision, version)[1]
        return CalibrationOrder(self._cores, asked, machine, self._gateways, self._settings.graph_rewrites)

    def batching(self, revision: DeploymentRevision, version: ModelVersion) -> ServingSettings | None:
        """What the batch lane should know; None for the CPU lane."""
        asked = self.effective(revision, version)
        return asked if asked.lane == "batch" else None

    def curve(self, revision: DeploymentRevision, version: ModelVersion) -> tuple[tuple[int, int, float, int], ...]:
        """What is known of the cost of its batches."""
        measured = self._measured.get(self.evidence(revision, version))
        return measured.curve if measured is not None else ()

    def rewritten(self, revision: DeploymentRevision, version: ModelVersion) -> bool:
        """Whether it was found to be better with its graph rewritten."""
        measured = self._measured.get(self.evidence(revision, version))
        return measured is not None and measured.rewritten

    def joint(self, revision: DeploymentRevision, version: ModelVersion) -> JointRuns | None:
        """How many samples of its requests may share a run; None: each runs alone."""
        measured = self._measured.get(self.evidence(revision, version))
        asked = self.effective(revision, version)
        return calibration.joint_runs(measured, asked) if measured is not None else None

    def engines(self, revision: DeploymentRevision, version: ModelVersion) -> int:
        """Of one process that starts now; before the choice, the most that it may come to."""
        choice = self.choice(revision, version)
        if choice is None:
            return calibration.most_engines(self._cores, self.effective(revision, version))
        return choice.engines // choice.processes

    def inline(
        self, revision: DeploymentRevision, version: ModelVersion, package: Path, weights: Path
    ) -> InlineSpec | None:
        """Leave for gateways to run it, unless one of them gave it up."""
        choice = self.choice(revision, version)
        if choice is None or self.why_demoted(revision):
            return None
        return calibration.inline_spec(self._measured[self.evidence(revision, version)], choice, package, weights)

    def is_demoted(self, revision_id: int) -> bool:
        """Whether a gateway gave it up since this process started."""
        return revision_id in self._demoted

    def why_demoted(self, revision: DeploymentRevision) -> str:
        """Why gateways don't run it any more; empty: they do, or never did."""
        return revision.demoted or self._demoted.get(revision.id, "")

    def describe(self, revision: DeploymentRevision) -> dict[str, Any] | None:
        """The choice, for people."""
        choice = self._choices.get(revision.id)
        if choice is None:
            return None
        placement = "worker" if self.why_demoted(revision) else choice.placement
        return {
            "placement": placement, "processes": choice.processes, "engines": choice.engines, "lane": choice.lane,
            "why": choice.why,
        }  # fmt: skip


def cores_for(
    cpus: tuple[int, ...], others: Iterable[tuple[int, ...]], *, revision: int, processes: int, engines: int
) -> tuple[int, ...]:
    """The cores of one more process: where the revision's `others` are not. Each revision begins elsewhere.

    >>> cores_for((0, 1), [], revision=1, processes=2, engines=1), cores_for((0, 1), [(1,)], revision=1, processes=2,
    ...     engines=1), cores_for((0, 1), [(0,)], revision=1, processes=2, engines=1)
    ((1,), (0,), (1,))
    """
    taken = Counter(pinned[0] for pinned in others if pinned)
    starts = [(revision + slot * engines) % len(cpus) for slot in range(processes)]
    start = min(starts, key=lambda core: taken[cpus[core]])
    return tuple(cpus[(start + engine) % len(cpus)] for engine in range(engines))
