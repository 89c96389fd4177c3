"""The reconcile loop: compares the registry's rows with the running workers and carries out `plan`.

Level-triggered: every pass looks at everything again, so a pass that was interrupted anywhere, also by the death of
this process, is made good by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from seaway import faults
from seaway.config import Settings
from seaway.errors import SeawayError
from seaway.registry import ArtifactStore, Registry
from seaway.rollouts.gateways import GatewayHub
from seaway.rollouts.placement import Placements, cores_for
from seaway.rollouts.plan import Goal, Health, Phase, Plan, Target, plan
from seaway.rollouts.workers import Death, Worker, WorkerFleet
from seaway.serving import process, weight_files
from seaway.serving.isolation import ACTIVITY_PAGE, ActivityPage
from seaway.telemetry.batches import BatchCounters, added
from seaway.telemetry.logs import rotate
from seaway.types import (
    MAX_BATCH_SIZE,
    Calibration,
    DeploymentRevision,
    ModelState,
    ModelVersion,
    RoutingTable,
    ServedVersion,
    ServingSettings,
    WorkerAddress,
    WorkerConfig,
)

log = structlog.get_logger()

_PASS_SECONDS = 1.0
_FAST_DEATH_SECONDS = 1.0
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}
_SETTLED = {"ready", "failed", "superseded", "undeployed"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the registry says about one model: the newest revision, and the one that served before it."""

    desired: DeploymentRevision
    fallback: DeploymentRevision | None


@dataclass(slots=True)
class Spent:
    """What the dead workers of a version have used: counters must not go backwards when one dies."""

    cpu_seconds: float = 0.0
    restarts: int = 0
    batches: BatchCounters | None = None


class Controller:
    """Control's heart. Lives on control's event loop; `registry` calls run in threads."""

    def __init__(self, settings: Settings, registry: Registry, artifacts: ArtifactStore, run: Path) -> None:
        self._settings = settings
        self._registry = registry
        self._artifacts = artifacts
        self._run = run
        self._weights = run / "weights"
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._moved = asyncio.Condition()
        self.fleet = WorkerFleet(
            run / "launcher.sock", changed=self._woken.set, died=self._on_death, calibrated=self._on_calibrated
        )
        self.gateways = GatewayHub(
            run,
            expected=settings.gateways or 1,
            replace=self.fleet.replace_gateway,
            demoted=self._on_demoted,
            spent=self._on_spent,
        )
        self._wishes: dict[str, Wish] = {}
        self._versions: dict[tuple[str, int], ModelVersion] = {}
        self._health: dict[int, Health] = {}
        self._reasons: dict[str, str] = {}
        self._serving: dict[str, int] = {}
        self._warm_until: dict[int, float] = {}
        self.spent: dict[tuple[str, int], Spent] = {}
        self._cpus = process.available_cpus()
        self._activity = run / ACTIVITY_PAGE if settings.isolation else None
        if self._activity is not None:
            ActivityPage(self._activity, settings.gateways or 1)  # so that it's there when a worker looks for it
        self._placements = Placements(settings, registry, len(self._cpus))
        self._ids = itertools.count(1)
        self._started = False
        self._announced = False

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Reconcile until the launcher is gone."""
        await self.gateways.start()
        launcher_gone = await self.fleet.connect()
        self._serving = {served.model: served.revision for served in self.gateways.table.versions}
        if self._serving:
            await self.gateways.wait_for_gateways(2.0)
        while not launcher_gone.done():
            self._woken.clear()
            delay = _PASS_SECONDS
            await self._move_out()
            try:
                await self._read_wishes()
                delay = await self._reconcile()
                await self._placements.keep_evidence(self._wanted())
            except SeawayError as error:
                log.warning("control.registry_unreachable", reason=str(error))
            rotate(self._settings.log_file)
            async with self._moved:
                self._moved.notify_all()
            try:
                async with asyncio.timeout(delay):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def wake(self) -> None:
        """Reconcile now; from any thread."""
        self._loop.call_soon_threadsafe(self._woken.set)

    async def _read_wishes(self) -> None:
        rows = await asyncio.to_thread(self._registry.desired)
        wishes: dict[str, Wish] = {}
        for desired in rows:
            previous = self._wishes.get(desired.model)
            if previous and previous.desired.id != desired.id and previous.desired.state == "pending":
                why = f"Revision {desired.number} came before it was ready."
                await self._record(desired.model, previous.desired.id, "superseded", why)
            fallback = None
            if desired.arms and desired.ready_at is None:
                fallback = await asyncio.to_thread(self._registry.last_ready, desired.model)
            wishes[desired.model] = Wish(desired, fallback)
            for revision in (desired, fallback):
                if revision is None:
                    continue
                for arm in revision.arms:
                    await self._placements.recall(revision, await self._version(desired.model, arm.version))
        self._wishes = wishes
        self._placements.forget_all_but(self._wanted())
        await asyncio.to_thread(weight_files.remove_all_but, self._weights, {one.id for one in self._wanted()})

    def _wanted(self) -> list[DeploymentRevision]:
        return [one for wish in self._wishes.values() for one in (wish.desired, wish.fallback) if one is not None]

    async def _version(self, model: str, version: int) -> ModelVersion:
        key = (model, version)
        if key not in self._versions:
            found = await asyncio.to_thread(self._registry.get_model_version, model, version)
            self._versions[key] = found
        return self._versions[key]

    def _placed(self, model: str, revision_id: int) -> tuple[DeploymentRevision, ModelVersion]:
        """A wanted revision with its version."""
        revision = next(one for one in self._wanted() if one.id == revision_id)
        return revision, self._versions[model, revision.arms[0].version]

    async def _reconcile(self) -> float:
        """One pass over all models; the seconds until the next is due."""
        now = time.monotonic()
        plans = {model: self._plan(model, wish, now) for model, wish in self._wishes.items()}
        for model, step in plans.items():
            if step.fail is not None:
                await self._record(model, self._wishes[model].desired.id, "failed", step.fail)
                self._woken.set()
            for revision in step.start:
                self._start_worker(model, revision)
            self._reasons[model] = step.reason
        serving = {model: step.serve for model, step in plans.items() if step.serve is not None}
        self._started = self._started or self._all_settled(plans)
        table = self._table(serving)
        if _content(table) != _content(self.gateways.table):
            faults.point("publish.before")
            await self.gateways.publish(table)
            faults.point("publish.after")
        if not self._announced and self.gateways.links:
            self._announced = True
            self.fleet.announce_serving()
        await self._after_publish(serving, plans)
        wakes = [step.wake_at - now for step in plans.values() if step.wake_at is not None]
        return max(0.01, min([_PASS_SECONDS, *wakes]))

    def _plan(self, model: str, wish: Wish, now: float) -> Plan:
        views = [worker.view for worker in self.fleet.workers.values() if worker.config.model == model]
        goal = Goal(
            self._target(wish.desired) if wish.desired.arms else None,
            self._target(wish.fallback) if wish.fallback else None,
        )
        return plan(
            goal, views, self._health,
            serving=self._serving.get(model), now=now, load_seconds=self._settings.load_seconds,
        )  # fmt: skip

    def _target(self, revision: DeploymentRevision) -> Target:
        choice = self._placements.choice(revision, self._versions[revision.model, revision.arms[0].version])
        failed = revision.state == "failed" and revision.ready_at is None
        return Target(
            revision.id,
            # Until it is calibrated, the one that measures.
            choice.processes if choice else 1,
            revision.ready_at is not None,
            failed,
            choice.refusal if choice else "",
        )

    def _all_settled(self, plans: dict[str, Plan]) -> bool:
        """Whether every model has come to serve, to have failed, or to nothing."""
        for model, step in plans.items():
            desired = self._wishes[model].desired
            if desired.arms and step.serve is None and desired.state != "failed" and not step.reason:
                return False
        return True

    async def _after_publish(self, serving: dict[str, int], plans: dict[str, Plan]) -> None:
        """Gateways route by the new table: write down what became of the revisions, let the old workers go."""
        now = time.monotonic()
        for model, wish in self._wishes.items():
            before, after = self._serving.get(model), serving.get(model)
            desired = wish.desired
            if after == desired.id and self._ready_workers(desired.id) and desired.state != "ready":
                await self._record(model, desired.id, "ready", "")
            if before is not None and before != after:
                if after is not None:
                    self._warm_until[before] = now + self._settings.warm_seconds
                    await self._record(model, before, "superseded", f"Revision {desired.number} replaced it.")
                log.info("rollout.switched", model=model, from_revision=before, to_revision=after)
            if not desired.arms and desired.state == "pending":
                await self._record(model, desired.id, "undeployed", "")
        self._serving = serving
        drained = [
            worker_id for step in plans.values() for worker_id in step.drain if not self._kept_warm(worker_id, now)
        ]
        orphans = [w.config.worker_id for w in self.fleet.workers.values() if w.config.model not in plans]
        for worker_id in [*drained, *orphans]:
            self.fleet.drain(worker_id)
        if drained:
            faults.point("drain.sent")
        overdue = [
            worker.config.worker_id
            for worker in self.fleet.workers.values()
            if worker.drain_at is not None and now - worker.drain_at > self._settings.drain_seconds + 2
        ]
        for worker_id in {*overdue, *(worker_id for step in plans.values() for worker_id in step.kill)}:
            self.fleet.kill(worker_id, expected=self._is_superseded(worker_id))

    def _is_superseded(self, worker_id: str) -> bool:
        """Whether a newer revision made this worker useless: its end is then nobody's failure."""
        config = self.fleet.workers[worker_id].config
        wish = self._wishes.get(config.model)
        wanted = {r.id for r in (wish.desired, wish.fallback) if r is not None} if wish else set()
        return config.revision not in wanted

    def _kept_warm(self, worker_id: str, now: float) -> bool:
        return self._warm_until.get(self.fleet.workers[worker_id].config.revision, 0.0) > now

    def _ready_workers(self, revision: int) -> list[Worker]:
        workers = self.fleet.workers.values()
        return [worker for worker in workers if worker.config.revision == revision and worker.phase is Phase.READY]

    async def _record(self, model: str, revision_id: int, state: str, reason: str) -> None:
        await asyncio.to_thread(self._registry.record_deployment_event, revision_id, state, reason)
        fresh = await asyncio.to_thread(self._registry.get_revision, revision_id)
        # The number is what people are shown; the id is in prediction ids.
        log.info(
            "deployment.settled", model=model, number=fresh.number, revision=revision_id, state=state, reason=reason
        )
        wish = self._wishes.get(model)
        if wish is not None and wish.desired.id == revision_id:
            self._wishes[model] = replace(wish, desired=fresh)

    # ------------------------------------------------------------------ workers

    def _start_worker(self, model: str, revision_id: int) -> None:
        revision, version = self._placed(model, revision_id)
        settings = self._placements.effective(revision, version)
        choice = self._placements.choice(revision, version)
        engines = self._placements.engines(revision, version)
        others = [worker.config.cpus for worker in self.fleet.workers.values() if worker.config.revision == revision_id]
        processes = choice.processes if choice else 1
        worker_id = f"w{os.getpid()}-{next(self._ids)}"
        self.fleet.start(
            WorkerConfig(
                worker_id=worker_id, model=model, version=version.version, revision=revision_id,
                package=self._artifacts.path(version.digest), manifest=version.manifest,
                socket=self._run / f"{worker_id}.sock", page=self._run / f"{worker_id}.page",
                engines=engines,
                cpus=cores_for(self._cpus, others, revision=revision_id, processes=processes, engines=engines),
                max_queue_size=settings.max_queue_size or 1,
                max_body_bytes=self._settings.max_body_bytes,
                memory_bytes=self._memory_limit(revision, version),
                drain_seconds=self._settings.drain_seconds,
                log_level=self._settings.log_level, log_format=self._settings.log_format,
                log_file=self._settings.log_file, kill_point_file=self._settings.kill_point_file,
                calibrate=self._placements.order(revision, version),
                weights=self._weights / str(revision_id) if choice is None or processes > 1 else None,
                activity=self._activity,
                rewritten=self._placements.rewritten(revision, version),
                joint=self._placements.joint(revision, version),
                batching=self._placements.batching(revision, version),
                curve=self._placements.curve(revision, version),
            )
        )  # fmt: skip
        log.info("worker.starting", worker=worker_id, model=model, version=version.version, revision=revision_id)

    def _memory_limit(self, revision: DeploymentRevision, version: ModelVersion) -> int | None:
        """Of a worker's address space; none beside a GPU, whose driver maps more than any machine has."""
        batching = self._placements.batching(revision, version)
        if batching is not None and batching.device != "cpu":
            return None
        return self._settings.worker_memory_bytes or int(process.total_memory_bytes() * 0.8)

    def _on_calibrated(self, worker: Worker, measured: Calibration) -> None:
        """A worker has measured its version. Called on the event loop, before that worker is known to be ready."""
        if self._placements.learn(worker.config.manifest.digest, measured):
            self._woken.set()

    def _on_demoted(self, revision_id: int, reason: str) -> None:
        """A gateway doesn't run a revision itself any more. Called on the event loop."""
        self._placements.demote(self.gateways.table.versions, revision_id, reason)
        self._woken.set()

    def _on_spent(self, model: str, version: int, cpu_seconds: float) -> None:
        """A gateway has run a version itself. Called on the event loop."""
        self.spent.setdefault((model, version), Spent()).cpu_seconds += cpu_seconds

    async def _move_out(self) -> None:
        """Tell every gateway what one of them has given up running; this needs no registry."""
        table = self.gateways.table
        versions = tuple(
            replace(served, inline=None) if self._placements.is_demoted(served.revision) else served
            for served in table.versions
        )
        if versions != table.versions:
            await self.gateways.publish(replace(table, generation=table.generation + 1, versions=versions))

    def _on_death(self, death: Death) -> None:
        """Keep the books of a worker that ended. Called on the event loop."""
        worker, now = death.worker, time.monotonic()
        spent = self.spent.setdefault((worker.config.model, worker.config.version), Spent())
        spent.cpu_seconds += worker.cpu_seconds
        spent.batches = added(spent.batches, worker.batches)
        if worker.phase is Phase.DRAINING:
            return
        revision = worker.config.revision
        before = self._health.get(revision, Health())
        young = worker.ready_at is None or now - worker.ready_at < _FAST_DEATH_SECONDS or not worker.answered
        reason = worker.reason or death.sentence
        self._health[revision] = Health(before.bad_deaths + 1 if young else 0, now, reason)
        spent.restarts += 1
        if worker.config.weights is not None and -death.status in _CRASHES:
            # Were the shared weights to blame, each replacement would die of them.
            with contextlib.suppress(OSError):
                weight_files.keep_apart(worker.config.weights)
        log.warning(
            "worker.died", worker=worker.config.worker_id, model=worker.config.model, status=death.status, reason=reason
        )

    # ------------------------------------------------------------------ what gateways and people see

    def _table(self, serving: dict[str, int]) -> RoutingTable:
        served = [self._served(model, revision) for model, revision in sorted(serving.items())]
        names = {model for model, wish in self._wishes.items() if wish.desired.arms} - serving.keys()
        waiting = [self._model_state(model) for model in sorted(names)]
        return RoutingTable(self.gateways.table.generation + 1, tuple(served), tuple(waiting), started=self._started)

    def _model_state(self, model: str) -> ModelState:
        desired = self._wishes[model].desired
        reason = desired.state_reason if desired.state == "failed" else self._reasons.get(model, "")
        return ModelState(model, "UNAVAILABLE" if reason else "LOADING", reason)

    def _served(self, model: str, revision_id: int) -> ServedVersion:
        revision, version = self._placed(model, revision_id)
        settings = self._placements.effective(revision, version)
        workers = sorted(self._ready_workers(revision_id), key=lambda worker: worker.config.worker_id)
        return ServedVersion(
            model=model, version=version.version, revision=revision_id, arm=0, weight_bp=10_000,
            signature=version.signature, platform=version.platform,
            workers=tuple(_addresses(workers)),
            max_queue_size=settings.max_queue_size or 1,
            timeout_seconds=settings.timeout_seconds or self._settings.timeout_seconds,
            max_batch_size=(version.spec.get("serving") or {}).get("max_batch_size") or MAX_BATCH_SIZE,
            inline=self._placements.inline(
                revision, version, self._artifacts.path(version.digest), self._weights / str(revision_id)
            ),
            batching=self._placements.batching(revision, version),
        )  # fmt: skip

    def lane_of(self, version: ModelVersion, settings: ServingSettings) -> str:
        """Which lane would serve the version on this machine, if deployed with these settings."""
        return self._placements.lane_and_device(version, settings)[0]

    def measured_as(self, model: str) -> tuple[str, str] | None:
        """Digest and machine under which the measurements of a model's deployment are kept; None: it isn't deployed."""
        wish = self._wishes.get(model)
        if wish is None or not wish.desired.arms:
            return None
        return self._placements.evidence(*self._placed(model, wish.desired.id))

    async def settled(self, revision_id: int, timeout_seconds: float) -> DeploymentRevision:
        """The revision once it is ready, failed or replaced; or as it is when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            revision = await asyncio.to_thread(self._registry.get_revision, revision_id)
            left = deadline - time.monotonic()
            if revision.state in _SETTLED or left <= 0:
                return revision
            try:
                async with asyncio.timeout(left), self._moved:
                    await self._moved.wait()
            except TimeoutError:
                continue

    def live(self) -> dict[str, Any]:
        """What runs now, for people."""
        models: dict[str, Any] = {}
        for model, wish in self._wishes.items():
            workers = [_describe(worker) for worker in self.fleet.workers.values() if worker.config.model == model]
            serving = next((served for served in self.gateways.table.versions if served.model == model), None)
            state = "READY" if serving else "UNDEPLOYED" if not wish.desired.arms else self._model_state(model).state
            shown = next((one for one in self._wanted() if serving and one.id == serving.revision), wish.desired)
            models[model] = {
                "state": state,
                "version": serving.version if serving else None,
                "revision": serving.revision if serving else None,
                "reason": self._reason(model, shown) if wish.desired.arms else "",
                "choice": self._placements.describe(shown),
                "workers": workers,
            }
        return {"models": models, "gateways": self.gateways.describe(), "generation": self.gateways.table.generation}

    def _reason(self, model: str, shown: DeploymentRevision) -> str:
        """What people should know: why it doesn't serve or isn't replaced, else why gateways don't run it."""
        demoted, desired = self._placements.why_demoted(shown), self._wishes[model].desired
        reason = self._model_state(model).reason
        if reason and shown.id != desired.id:
            wanted, serving = desired.arms[0].version, shown.arms[0].version
            again = f" as in revision {desired.number}" if wanted == serving else ""
            return f"Version {wanted}{again}, which was asked for last, is not served: {reason}"
        return reason or (f"Gateways stopped running it: {demoted}" if demoted else "")


def _addresses(workers: Iterable[Worker]) -> Iterable[WorkerAddress]:
    for worker in workers:
        config = worker.config
        yield WorkerAddress(config.worker_id, str(config.socket), str(config.page), config.engines)


def _content(table: RoutingTable) -> RoutingTable:
    return replace(table, generation=0)


def _describe(worker: Worker) -> dict[str, Any]:
    config = worker.config
    return {
        "worker_id": config.worker_id, "pid": worker.pid, "version": config.version, "revision": config.revision,
        "phase": str(worker.phase), "engines": config.engines, "answered": worker.answered,
        "memory_bytes": process.proportional_memory_bytes(worker.pid) if worker.pid else None,
        "batches": msgspec.to_builtins(worker.limits) if worker.limits else None,
        "batched": worker.batches.summary() if worker.batches else None,
    }  # fmt: skip
