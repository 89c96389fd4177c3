"""Fakes that are part of the package, for tests of what is built on Seaway and for Seaway's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seaway.registry import Registry
from seaway.types import DeploymentRevision, ModelVersion, ServingSettings


@dataclass
class FakeOperations:
    """The running server as the management API sees it, without processes.

    A revision that somebody waits for settles at once, as `becomes` says: ready, failed or (pending) not at all.
    Undeploying always succeeds. What the API asked for is in `wakes` and `waited`.
    """

    registry: Registry
    becomes: str = "ready"
    reason: str = ""
    metrics: bytes = b"# EOF\n"
    down: dict[str, str] = field(default_factory=dict)
    """Deployed models that can't be served just now, and why."""
    measured: dict[str, tuple[str, str]] = field(default_factory=dict)
    log_lines: list[str] = field(default_factory=list)
    wakes: int = 0
    waited: list[tuple[int, float]] = field(default_factory=list)

    def wake(self) -> None:
        self.wakes += 1

    async def settled(self, revision_id: int, timeout_seconds: float) -> DeploymentRevision:
        self.waited.append((revision_id, timeout_seconds))
        revision = self.registry.get_revision(revision_id)
        if revision.state == "pending":
            state = self.becomes if revision.arms else "undeployed"
            if state != "pending":
                self.registry.record_deployment_event(revision_id, state, self.reason if revision.arms else "")
        return self.registry.get_revision(revision_id)

    def lane_of(self, version: ModelVersion, settings: ServingSettings) -> str:
        """The one that is asked for; cpu where any will do."""
        return settings.lane if settings.lane in {"cpu", "batch"} else "cpu"

    def measured_as(self, model: str) -> tuple[str, str] | None:
        return self.measured.get(model)

    def live(self) -> dict[str, Any]:
        """Every ready deployment with one worker; the others as the controller tells of them."""
        models = {revision.model: _live(revision) for revision in self.registry.desired()}
        for model, why in self.down.items():
            models[model] |= {"state": "UNAVAILABLE", "reason": why}
        gateways = [{"index": 0, "pid": 1, "generation": 1}]
        return {"models": models, "gateways": gateways, "generation": 1}

    def render_metrics(self) -> bytes:
        return self.metrics

    def logs(self, *, model: str | None, lines: int) -> list[str]:
        return [line for line in self.log_lines if model is None or model in line][-lines:]


def _live(revision: DeploymentRevision) -> dict[str, Any]:
    ready = revision.state == "ready"
    version = revision.arms[0].version if revision.arms else None
    worker = {
        "worker_id": f"w1-{revision.id}", "pid": 1, "version": version, "revision": revision.id,
        "phase": "ready", "engines": 1,
    }  # fmt: skip
    states = {"ready": "READY", "pending": "LOADING", "undeployed": "UNDEPLOYED"}
    return {
        "state": states.get(revision.state, "UNAVAILABLE"),
        "version": version if ready else None,
        "revision": revision.id if ready else None,
        "reason": revision.state_reason,
        "choice": None,
        "workers": [worker] if ready else [],
    }
