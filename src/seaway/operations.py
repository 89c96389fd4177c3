"""What the management API asks of the running server: control's side of `seaway.api.management.Operations`."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

from seaway.config import Settings
from seaway.rollouts.controller import Controller
from seaway.rollouts.plan import Phase
from seaway.telemetry.metrics import LiveGauges, VersionGauges, render
from seaway.serving import process
from seaway.types import DeploymentRevision

_TAIL_BYTES = 4 << 20


class ControlOperations:
    """Answers from what the controller knows; never waits for a worker."""

    def __init__(self, controller: Controller, run: Path, settings: Settings) -> None:
        self._controller = controller
        self._run = run
        self._settings = settings

    def wake(self) -> None:
        self._controller.wake()

    async def settled(self, revision_id: int, timeout_seconds: float) -> DeploymentRevision:
        return await self._controller.settled(revision_id, timeout_seconds)

    def live(self) -> dict[str, Any]:
        return self._controller.live()

    def render_metrics(self) -> bytes:
        """Prometheus text: the gateways' pages summed, and what control sees of the workers."""
        return render(sorted(self._run.glob("metrics-*.page")), self._gauges())

    def _gauges(self) -> LiveGauges:
        controller = self._controller
        table = controller.gateways.table
        versions: dict[tuple[str, int], VersionGauges] = {
            key: VersionGauges(cpu_seconds=spent.cpu_seconds, restarts=spent.restarts)
            for key, spent in list(controller.spent.items())
        }
        ready = {(served.model, served.version) for served in table.versions if served.workers}
        for worker in list(controller.fleet.workers.values()):
            key = (worker.config.model, worker.config.version)
            before = versions.get(key, VersionGauges())
            page = worker.page
            versions[key] = VersionGauges(
                engines=before.engines + (worker.config.engines if worker.phase is Phase.READY else 0),
                engines_busy=before.engines_busy + (page.busy_engines if page else 0),
                queue_depth=before.queue_depth + (page.queued if page else 0),
                restarts=before.restarts,
                memory_bytes=before.memory_bytes + (process.proportional_memory_bytes(worker.pid) or 0 if worker.pid else 0),
                cpu_seconds=before.cpu_seconds + worker.cpu_seconds,
                ready=key in ready,
            )
        return LiveGauges(versions=versions, gateways=len(controller.gateways.links), generation=table.generation)

    def logs(self, *, model: str | None, lines: int) -> list[str]:
        """The newest log lines of all processes, oldest first; of one model when it is named."""
        kept: deque[str] = deque(maxlen=lines)
        try:
            with self._settings.log_file.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                for raw in file:
                    line = raw.decode(errors="replace").rstrip("\n")
                    if model is None or _about(line, model):
                        kept.append(line)
        except FileNotFoundError:
            return []
        return list(kept)


def _about(line: str, model: str) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False  # the first line of the tail may be cut
    return isinstance(fields, dict) and fields.get("model") == model
