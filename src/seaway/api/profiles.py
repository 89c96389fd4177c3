"""Routes of profiles: measure what a version costs in which circumstances, and show what was measured."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import structlog
from fastapi import APIRouter

from seaway.api import schemas, views
from seaway.api.requests import Actor, Name, NameOrNumber, Operations
from seaway.config import Settings
from seaway.errors import Conflict, NotFound, SeawayError
from seaway.packages.manifest import verify
from seaway.registry import Registry
from seaway.serving.calibration import machine
from seaway.serving.process import available_cpus
from seaway.serving.profile import Progress, profile_package
from seaway.types import Calibration, Json, ModelVersion

log = structlog.get_logger()

_MEASURING_SECONDS = 60.0
"""More than the curves take; opening the package may take `inspect_seconds` beside it."""


@dataclass(slots=True)
class _Job:
    """The newest profile that was asked for."""

    version: ModelVersion
    actor: str
    progress: Progress = field(default_factory=Progress)
    state: str = "running"
    reason: str = ""


class Profiler:
    """One profile at a time: two would measure each other. Its thread ends with the throw-away process."""

    def __init__(self, registry: Registry, settings: Settings, operations: Operations) -> None:
        self._registry = registry
        self._operations = operations
        self._settings = settings
        self._lock = threading.Lock()
        self._job: _Job | None = None

    def start(self, version: ModelVersion, actor: str) -> Json:
        """Begin, unless it runs already. Raises Conflict while another version is being measured."""
        with self._lock:
            running = self._job if self._job is not None and self._job.state == "running" else None
            if running is not None and running.version.digest != version.digest:
                other = running.version
                raise Conflict(f"Version {other.version} of {other.model} is being profiled; try again in a minute.")
            if running is None:
                self._job = _Job(version, actor)
                threading.Thread(target=self._run, args=(self._job,), name="profile", daemon=True).start()
        return self.describe(version)

    def describe(self, version: ModelVersion) -> Json:
        """How far the newest one is, and the newest result. Raises NotFound when there is neither."""
        with self._lock:
            job = self._job if self._job is not None and self._job.version.digest == version.digest else None
            # Read before the result: a job that is done has its result stored.
            state, reason = (job.state, job.reason) if job else ("done", "")
        stored = self._registry.find_profile(version.digest)
        batches = self._batches(version)
        measured = self._measured(version)
        rewriting, joint = (measured.rewriting, measured.joint) if measured else (None, None)
        if not (job or stored or batches or rewriting or joint):
            raise NotFound(
                f"Version {version.version} of {version.model} was never profiled; "
                f"`seaway profile {version.model} --version {version.version}` does that."
            )
        about = {"model": version.model, "version": version.version, "digest": version.digest}
        how = {"state": state, "reason": reason, "step": "", "progress": 1.0}
        if job is not None and state == "running":
            how |= {"step": job.progress.step, "progress": round(job.progress.done, 3)}
        result = views.profile(stored) if stored else None
        return (
            about
            | how
            | {
                "result": result,
                "graph": views.plain(rewriting) if rewriting else None,
                "joint": views.plain(joint) if joint else None,
                "batches": views.batches(batches) if batches else None,
            }
        )

    def _batches(self, version: ModelVersion) -> Calibration | None:
        """What batches cost as the version is deployed now; else the newest that was measured of it."""
        deployed = self._operations.measured_as(version.model)
        if deployed is not None and deployed[0] == version.digest:
            found = self._registry.find_calibration(*deployed)
            if found is not None and found.curve:
                return found
        return self._registry.find_batches(version.digest)

    def _measured(self, version: ModelVersion) -> Calibration | None:
        """What was found when it was deployed here, by these settings."""
        here = machine(len(available_cpus()), self._settings.graph_rewrites)
        return self._registry.find_calibration(version.digest, here)

    def _run(self, job: _Job) -> None:
        version, settings = job.version, self._settings
        try:
            package = self._registry.artifacts.path(version.digest)
            verify(package, version.manifest)
            measured = self._measured(version)
            curves = profile_package(
                package, memory_bytes=settings.inspect_memory_bytes,
                rewritten=measured is not None and measured.rewritten,
                seconds=settings.inspect_seconds + _MEASURING_SECONDS, progress=job.progress,
            )  # fmt: skip
            self._registry.add_profile(version.digest, machine(len(available_cpus())), curves, actor=job.actor)
        except SeawayError as error:
            self._end(job, "failed", str(error))
        except Exception as error:  # outermost frame of the thread; whoever asked is waiting for an end
            log.exception("profile.failed", model=version.model, version=version.version)
            self._end(job, "failed", f"Profiling failed: {type(error).__name__}.")
        else:
            self._end(job, "done", "")

    def _end(self, job: _Job, state: str, reason: str) -> None:
        log.info("profile.ended", model=job.version.model, version=job.version.version, state=state, reason=reason)
        with self._lock:
            job.state, job.reason = state, reason


def profile_routes(registry: Registry, settings: Settings, operations: Operations) -> APIRouter:
    router = APIRouter(prefix="/api/models", tags=["models"])
    profiler = Profiler(registry, settings, operations)

    @router.post(
        "/{name}/versions/{version}/profile", summary="Measure what a version costs", response_model=schemas.Profile
    )
    def start(name: Name, version: NameOrNumber, actor: Actor) -> Json:
        """Begins, and answers at once; `GET` tells how far it is. It takes some 20 s, in a process of low priority."""
        return profiler.start(registry.get_model_version(name, version), actor)

    @router.get("/{name}/versions/{version}/profile", summary="What a version costs", response_model=schemas.Profile)
    def get(name: Name, version: NameOrNumber) -> Json:
        return profiler.describe(registry.get_model_version(name, version))

    return router
