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
from typing import Any

import msgspec
import structlog
import uvicorn
import uvloop

from seaway import faults
from seaway.config import Settings
from seaway.serving import bus, process
from seaway.telemetry import logs
from seaway.types import RoutingTable

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
    from seaway.api.lane import protocol_for  # noqa: PLC0415
    from seaway.api.server import GatewayServer  # noqa: PLC0415
    from seaway.serving.plane import DataPlane  # noqa: PLC0415
    from seaway.telemetry.page import MetricsPage  # noqa: PLC0415

    page = MetricsPage(run / f"metrics-{index}.page")
    plane = DataPlane(index=index, page=page, random=random.random)
    app = gateway_app(plane, settings=settings, pages=lambda: sorted(run.glob("metrics-*.page")))
    edge = edge_app(app, settings=settings, control_socket=run / "control.sock")
    with contextlib.suppress(FileNotFoundError):
        await plane.apply(msgspec.json.decode((run / "table.json").read_bytes(), type=RoutingTable))
    follower = asyncio.create_task(_follow_control(plane, run / "bus.sock", index), name="control-line")
    await GatewayServer(_uvicorn_config(edge, settings, protocol_for(plane, settings))).serve(sockets=[listener])
    follower.cancel()


async def _follow_control(plane: object, path: Path, index: int) -> None:
    """Apply every table that control pushes; without control, go on with the last one and try again."""
    from seaway.serving.plane import DataPlane  # noqa: PLC0415

    assert isinstance(plane, DataPlane)  # noqa: S101 - typed late because the import is late
    while True:
        try:
            reader, writer = await bus.connect(str(path))
        except OSError:
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        bus.send(writer, "gateway", index=index, pid=os.getpid())
        try:
            async for message in bus.receive(reader):
                table = msgspec.convert(message["table"], RoutingTable)
                await plane.apply(table)
                faults.point("publish.applied")
                bus.send(writer, "ack", generation=plane.generation)
        except bus.BusBroken as error:
            log.warning("gateway.control_line_broken", reason=str(error))
        finally:
            writer.close()
        await asyncio.sleep(_RECONNECT_SECONDS)


async def _control(settings: Settings, run: Path) -> None:
    from seaway.api.lane import LaneProtocol  # noqa: PLC0415
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
    server = uvicorn.Server(_uvicorn_config(app, settings, LaneProtocol, uds=str(run / "control.sock")))
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


def main(arguments: list[str]) -> int:
    """One child process of the launcher: control or a gateway."""
    parent, role, run = int(arguments[0]), arguments[1], Path(arguments[2])
    process.die_with_parent(parent)
    settings = Settings.from_json(run / "settings.json")
    faults.arm(settings.kill_point_file)
    logs.configure(role, settings.log_level, settings.log_format, file=settings.log_file)
    if role == "control":
        uvloop.run(_control(settings, run))
    else:
        listener = socket.socket(fileno=int(arguments[4]))
        uvloop.run(_gateway(settings, run, int(arguments[3]), listener))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
