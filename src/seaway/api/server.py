"""uvicorn as gateways run it: the lane in front, fair acceptance beside other gateways, polite at its end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time

import structlog
import uvicorn

from seaway.api.lane import LaneProtocol

log = structlog.get_logger()

LAME_DUCK_SECONDS = 0.5
_SWEEP_SECONDS = 1.0


class GatewayServer(uvicorn.Server):
    """uvicorn that sweeps out idle and stalled connections, and answers what is on its way before it leaves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep")

    async def _sweep(self) -> None:
        """Look after connections that do nothing; a timer for each of them would cost more than their requests."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LaneProtocol):
                    connection.sweep(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer each connection's next request with `Connection: close`, then close the idle ones."""
        waiting = select.poll()
        for sock in sockets or []:
            waiting.register(sock, select.POLLIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAME_DUCK_SECONDS):
                # A connection that the kernel has taken would be reset when the listener closes: accept it first.
                while waiting.poll(0):  # noqa: ASYNC110 - the event loop accepts meanwhile
                    await asyncio.sleep(0.001)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAME_DUCK_SECONDS):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn tells nobody when one closes
                    await asyncio.sleep(0.01)
        await super().shutdown(None)
        self._sweeper.cancel()
