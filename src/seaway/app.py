"""The composition roots of control and of a gateway: each room gets its part of the settings here.

`python -m seaway.app PARENT control RUN` and `python -m seaway.app PARENT gateway RUN INDEX FD`, started by the
launcher. A gateway never imports the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from seaway import faults
from seaway.config import Settings
from seaway.serving import bus, process
from seaway.telemetry import logs
from seaway.types import RoutingTable

log = structlog.get_logger()

_LAME_DUCK_SECONDS = 0.5
_RECONNECT_SECONDS = 0.05


def _uvicorn_config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="uvloop", http=GatewayProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
        **more,
    )  # fmt: skip


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's HTTP with our shape of error where a request can't even be parsed."""

    def send_400_response(self, msg: str) -> None:
        body = json.dumps(
            {"error": f"{msg.rstrip('.')}: the request line, a header or the framing is broken."}
        ).encode()
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


class GatewayServer(uvicorn.Server):
    """uvicorn that leaves politely: it answers what is on its way before it closes a connection."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer each connection's next request with `Connection: close`, then close the idle ones."""
        waiting = select.poll()
        for sock in sockets or []:
            waiting.register(sock, select.POLLIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAME_DUCK_SECONDS):
                # A connection that the kernel has taken would be reset when the listener closes: accept it first.
                while waiting.poll(0):  # noqa: ASYNC110 - the event loop accepts meanwhile
                    await asyncio.sleep(0.001)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAME_DUCK_SECONDS):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn tells nobody when one closes
                    await asyncio.sleep(0.01)
        await super().shutdown(None)


async def _gateway(settings: Settings, run: Path, index: int, listener: socket.socket) -> None:
    from seaway.api.gateway import edge_app, gateway_app  # noqa: PLC0415 - only this role imports the edge
    from seaway.serving.plane import DataPlane  # noqa: PLC0415
    from seaway.telemetry.page import MetricsPage  # noqa: PLC0415

    page = MetricsPage(run / f"metrics-{index}.page")
    plane = DataPlane(index=index, page=page, random=random.random)
    app = gateway_app(plane, settings=settings, pages=lambda: sorted(run.glob("metrics-*.page")))
    edge = edge_app(app, settings=settings, control_socket=run / "control.sock")
    with contextlib.suppress(FileNotFoundError):
        await plane.apply(msgspec.json.decode((run / "table.json").read_bytes(), type=RoutingTable))
    follower = asyncio.create_task(_follow_control(plane, run / "bus.sock", index), name="control-line")
    await GatewayServer(_uvicorn_config(edge, settings)).serve(sockets=[listener])
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
    server = uvicorn.Server(_uvicorn_config(app, settings, uds=str(run / "control.sock")))
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
