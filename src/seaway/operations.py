"""What the management API asks of the running server: control's side of `seaway.api.management.Operations`."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections import Counter, deque
from importlib import metadata
from pathlib import Path
from typing import Any

from seaway import __version__
from seaway.config import Settings
from seaway.rollouts.controller import Controller, Spent
from seaway.rollouts.plan import Phase
from seaway.rollouts.workers import Worker
from seaway.serving import process
from seaway.telemetry.batches import added
from seaway.telemetry.metrics import LiveGauges, VersionGauges, render
from seaway.telemetry.page import read_page
from seaway.types import DeploymentRevision, ModelVersion, ServingSettings

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

    def lane_of(self, version: ModelVersion, settings: ServingSettings) -> str:
        return self._controller.lane_of(version, settings)

    def measured_as(self, model: str) -> tuple[str, str] | None:
        return self._controller.measured_as(model)

    def live(self) -> dict[str, Any]:
        live = self._controller.live()
        answered = Counter[tuple[str, int | None]]()
        for page in self._pages():
            for series in read_page(page):
                answered[series.model, series.version] += series.outcomes["ok"]
        for name, model in live["models"].items():
            model["answered"] = answered[name, model["version"]] if self._settings.metrics else None
        return live

    def _pages(self) -> list[Path]:
        return sorted(self._run.glob("metrics-*.page"))

    def render_metrics(self) -> bytes:
        """Prometheus text: the gateways' pages summed, and what control sees of the workers."""
        return render(self._pages(), self._gauges())

    def _gauges(self) -> LiveGauges:
        controller = self._controller
        table = controller.gateways.table
        ready = {(served.model, served.version) for served in table.versions if served.workers}
        workers = list(controller.fleet.workers.values())
        keys = {*controller.spent, *((worker.config.model, worker.config.version) for worker in workers)}
        versions = tuple(self._version(key, workers, ready=key in ready) for key in sorted(keys))
        build = {"version": __version__, "python": platform.python_version(), "onnxruntime": _installed("onnxruntime")}
        counted = self._settings.metrics
        return LiveGauges(versions, len(controller.gateways.links), table.generation, build, counted)

    def _version(self, key: tuple[str, int], workers: list[Worker], *, ready: bool) -> VersionGauges:
        mine = [worker for worker in workers if (worker.config.model, worker.config.version) == key]
        pages = [worker.page for worker in mine if worker.page is not None]
        spent = self._controller.spent.get(key, Spent())
        return VersionGauges(
            *key,
            engines=sum(worker.config.engines for worker in mine if worker.phase is Phase.READY),
            engines_busy=sum(page.busy_engines for page in pages),
            queue_depth=sum(page.queued for page in pages),
            restarts=spent.restarts,
            memory_bytes=sum(process.proportional_memory_bytes(worker.pid) or 0 for worker in mine if worker.pid),
            cpu_seconds=spent.cpu_seconds + sum(worker.cpu_seconds for worker in mine),
            ready=ready,
            batches=functools.reduce(added, (worker.batches for worker in mine), spent.batches),
            devices=tuple(worker.device for worker in mine if worker.device is not None),
        )

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


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _about(line: str, model: str) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False  # the first line of the tail may be cut
    return isinstance(fields, dict) and fields.get("model") == model
