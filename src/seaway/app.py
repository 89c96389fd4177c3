"""The composition roots of control and of a gateway: each room gets its part of the settings here.

`python -m seaway.app PARENT control RUN` and `python -m seaway.app PARENT gateway RUN INDEX FD`, started by the
launcher. A gateway never imports the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvicorn
import uvloop

from seaway import faults
from seaway.config import Settings
from seaway.errors import ConfigurationError, Unavailable
from seaway.serving import bus, process
from seaway.telemetry import logs
from seaway.types import RoutingTable, ServedVersion

if TYPE_CHECKING:  # only gateways import it
    from seaway.serving.plane import DataPlane

log = structlog.get_logger()

_RECONNECT_SECONDS = 0.05


def _uvicorn_config(app: Any, settings: Settings, protocol: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="uvloop", http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
        **more,
    )  # fmt: skip


async def _gateway(settings: Settings, run: Path, index: int, listener: socket.socket) -> None:
    from seaway.api.gateway import edge_app, gateway_app  # noqa: PLC0415 - only this role imports the edge
    from seaway.api.gathering import Census, Gathering  # noqa: PLC0415
    from seaway.api.lane import protocol_for  # noqa: PLC0415
    from seaway.api.server import GatewayServer  # noqa: PLC0415
    from seaway.serving.assist import Assistant  # noqa: PLC0415
    from seaway.serving.isolation import ACTIVITY_PAGE, ActivityPage, GatewayIsolation  # noqa: PLC0415
    from seaway.serving.plane import DataPlane  # noqa: PLC0415
    from seaway.telemetry.page import MetricsPage, NoMetrics  # noqa: PLC0415

    page = MetricsPage(run / f"metrics-{index}.page") if settings.metrics else NoMetrics()
    plane = DataPlane(index=index, page=page, random=random.random, max_body_bytes=settings.max_body_bytes)
    if settings.isolation and hasattr(os, "sched_setaffinity"):
        activity = ActivityPage(run / ACTIVITY_PAGE, settings.gateways or 1)
        plane.assistant = Assistant(plane, activity, index)
        plane.isolation = GatewayIsolation(activity, index, process.available_cpus(), plane.has_slow_work)
    app = gateway_app(plane, settings=settings, pages=lambda: sorted(run.glob("metrics-*.page")))
    edge = edge_app(app, settings=settings, control_socket=run / "control.sock")
    line = ControlLine(plane, run / "bus.sock", index)
    with contextlib.suppress(FileNotFoundError):
        await plane.apply(msgspec.json.decode((run / "table.json").read_bytes(), type=RoutingTable))
    follower = asyncio.create_task(line.follow(), name="control-line")
    census = Census(run / "connections.page", index=index, gateways=settings.gateways or 1)
    protocol = protocol_for(plane, settings)
    server = GatewayServer(_uvicorn_config(edge, settings, protocol), census)
    if settings.gather_connections and settings.gateways != 1:
        server.gathering = protocol.lane.gathering = Gathering(
            census, run, index=index, connections=lambda: server.connections,
            answered=lambda: server.server_state.total_requests, arrived=server.arrived,
        )  # fmt: skip
    server.every_second = line.report
    process.settle()
    await server.serve(sockets=[listener])
    follower.cancel()


class ControlLine:
    """A gateway's line to control: tables come in, acknowledgements and what inline versions do go out."""

    def __init__(self, plane: DataPlane, path: Path, index: int) -> None:
        self._plane = plane
        self._path = path
        self._index = index
        self._writer: asyncio.StreamWriter | None = None
        self._moved_out: dict[int, tuple[str, str]] = {}
        """By revision, until a table comes that says so too: model and reason."""
        self._cpu_told: dict[int, int] = {}
        plane.on_moved_out = self._on_moved_out

    async def follow(self) -> None:
        """Apply every table that control pushes; without control, go on with the last one and try again."""
        while True:
            try:
                reader, self._writer = await bus.connect(str(self._path))
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            bus.send(self._writer, "gateway", index=self._index, pid=os.getpid())
            for revision, (model, reason) in self._moved_out.items():
                bus.send(self._writer, "demote", model=model, revision=revision, reason=reason)
            try:
                async for message in bus.receive(reader):
                    table = msgspec.convert(message["table"], RoutingTable)
                    await self._plane.apply(table)
                    faults.point("publish.applied")
                    bus.send(self._writer, "ack", generation=self._plane.generation)
            except bus.BusBroken as error:
                log.warning("gateway.control_line_broken", reason=str(error))
            finally:
                self._writer.close()
                self._writer = None
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _on_moved_out(self, served: ServedVersion, reason: str) -> None:
        self._moved_out[served.revision] = (served.model, reason)
        if self._writer is not None:
            bus.send(self._writer, "demote", model=served.model, revision=served.revision, reason=reason)

    def report(self) -> None:
        """Tell control what inline versions cost. Called about once a second."""
        for served, cpu_ns in self._plane.inline_cpu():
            more = cpu_ns - self._cpu_told.get(served.revision, 0)
            if more > 0 and self._writer is not None:
                self._cpu_told[served.revision] = cpu_ns
                bus.send(self._writer, "spent", model=served.model, version=served.version, cpu_seconds=more / 1e9)


async def _control(settings: Settings, run: Path) -> None:
    from seaway.api.guarded import GuardedProtocol  # noqa: PLC0415
    from seaway.api.management import management_app  # noqa: PLC0415 - only control imports the registry
    from seaway.operations import ControlOperations  # noqa: PLC0415
    from seaway.registry import ArtifactStore, Registry  # noqa: PLC0415
    from seaway.rollouts.controller import Controller  # noqa: PLC0415

    artifacts = ArtifactStore(settings.home / "artifacts")
    registry = Registry(settings.url, artifacts)
    await asyncio.to_thread(registry.migrate)
    removed = await asyncio.to_thread(lambda: artifacts.collect(registry.referenced_artifacts()))
    if removed:
        log.info("control.leftovers_removed", count=removed)
    controller = Controller(settings, registry, artifacts, run)
    app = management_app(registry, ControlOperations(controller, run, settings), settings)
    server = uvicorn.Server(_uvicorn_config(app, settings, GuardedProtocol, uds=str(run / "control.sock")))
    reconcile = asyncio.create_task(controller.run(), name="reconcile")
    serve = asyncio.create_task(server.serve(), name="api")
    try:
        done, _ = await asyncio.wait({reconcile, serve}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        server.should_exit = True
        reconcile.cancel()
        await asyncio.wait({serve}, timeout=1.0)
        registry.close()


def _run_control(settings: Settings, run: Path) -> int:
    """The exit status: EX_CONFIG where trying again won't help, EX_TEMPFAIL where the database can't be reached."""
    try:
        uvloop.run(_control(settings, run))
    except ConfigurationError as error:
        log.error("control.refused", reason=str(error))  # noqa: TRY400 - the sentence says it
        (run / bus.REFUSAL_FILE).write_text(str(error))
        return os.EX_CONFIG
    except Unavailable as error:
        log.error("control.no_registry", reason=str(error))  # noqa: TRY400 - as above
        return os.EX_TEMPFAIL
    return 0


def main(arguments: list[str]) -> int:
    """One child process of the launcher: control or a gateway."""
    parent, role, run = int(arguments[0]), arguments[1], Path(arguments[2])
    process.die_with_parent(parent)
    settings = Settings.from_json(run / "settings.json")
    faults.arm(settings.kill_point_file)
    logs.configure(role, settings.log_level, settings.log_format, file=settings.log_file)
    if role == "gateway":
        # What runs inline must not make the system look for a victim: it is refused the memory, and its worker asked.
        process.limit_memory(settings.worker_memory_bytes or int(process.total_memory_bytes() * 0.8))
    if role == "control":
        return _run_control(settings, run)
    listener = socket.socket(fileno=int(arguments[4]))
    uvloop.run(_gateway(settings, run, int(arguments[3]), listener))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
