"""uvicorn as gateways run it: connections shared out among gateways, swept while idle, closed politely."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable

import structlog
import uvicorn

from seaway.api.gathering import Census, Gathering
from seaway.api.guarded import GuardedProtocol

log = structlog.get_logger()

LAME_DUCK_SECONDS = 0.5
_SWEEP_SECONDS = 1.0
_TURN_SECONDS = 0.001
_EXHAUSTED_SECONDS = 0.1
_TELL_SECONDS = 10.0


class GatewayServer(uvicorn.Server):
    """uvicorn that takes its turn accepting connections, and answers what is on its way before it leaves."""

    def __init__(self, config: uvicorn.Config, census: Census) -> None:
        super().__init__(config)
        self._census = census
        self.gathering: Gathering | None = None
        """None: each connection stays where it was accepted."""
        self._told_exhausted = -_TELL_SECONDS
        self.every_second: Callable[[], None] = lambda: None
        """Called about once a second, in the event loop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.servers = []
        self._listeners = list(sockets or [])
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep")
        self._arrivals: set[asyncio.Task[None]] = set()
        self.started = True

    # ------------------------------------------------------------------ accepting

    def _accept(self, listener: socket.socket, *, waited: bool = False) -> None:
        """Take one connection, or leave it for a moment to a gateway that has fewer. Called by the event loop.

        All gateways wait at the same socket, and one that is quick would otherwise take a whole burst.
        """
        self._census.set(len(self.server_state.connections) + len(self._arrivals))
        if not waited and self._census.has_most:
            self._wait(listener, _TURN_SECONDS, waited=True)
            return
        if self.gathering is not None and not self.gathering.may_accept():
            self._wait(listener, _EXHAUSTED_SECONDS, waited=False)
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another gateway has it
        except OSError as error:  # out of file descriptors, most likely
            self._wait(listener, _EXHAUSTED_SECONDS, waited=False)
            self._tell_exhausted(error)
            return
        self.arrived(connection)

    def arrived(self, connection: socket.socket) -> None:
        """A connection came, from a client or from another gateway."""
        task = self._loop.create_task(self._arrive(connection))
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    def _wait(self, listener: socket.socket, seconds: float, *, waited: bool) -> None:
        self._loop.remove_reader(listener)
        self._loop.call_later(seconds, self._look_again, listener, waited)

    def _look_again(self, listener: socket.socket, waited: bool) -> None:
        if listener in self._listeners:
            # Before trying: the try may end in another wait.
            self._loop.add_reader(listener, self._accept, listener)
            self._accept(listener, waited=waited)

    def _tell_exhausted(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._told_exhausted > _TELL_SECONDS:
            self._told_exhausted = now
            log.error("gateway.cannot_accept", reason=error.strerror)

    async def _arrive(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(protocol, connection)
        except OSError as error:
            log.debug("gateway.connection_lost_early", reason=str(error))
            connection.close()

    def _stop_accepting(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.close()

    # ------------------------------------------------------------------ looking after connections

    @property
    def connections(self) -> list[GuardedProtocol]:
        """Those that are open."""
        return [one for one in self.server_state.connections if isinstance(one, GuardedProtocol)]

    async def _sweep(self) -> None:
        """Look after connections that do nothing; a timer for each of them would cost more than their requests."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self._look_after(time.monotonic())
            except Exception:  # one odd connection must not end the care for all others
                log.exception("gateway.sweep_failed")

    def _look_after(self, now: float) -> None:
        for connection in self.connections:
            connection.sweep(now)
        self._census.set(len(self.server_state.connections))
        self.every_second()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer each connection's next request with `Connection: close`, then close the idle ones."""
        if self.gathering is not None:
            self.gathering.leave()
        waiting = select.poll()
        for sock in sockets or []:
            waiting.register(sock, select.POLLIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAME_DUCK_SECONDS):
                # A connection that the kernel has taken would be reset when the listener closes: accept it first.
                while waiting.poll(0):  # noqa: ASYNC110 - the event loop accepts meanwhile
                    await asyncio.sleep(0.001)
                if self.gathering is not None:
                    self.gathering.close()
                await asyncio.gather(*self._arrivals, return_exceptions=True)
        self._stop_accepting()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAME_DUCK_SECONDS):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn tells nobody when one closes
                    await asyncio.sleep(0.01)
        await super().shutdown(None)
        self._sweeper.cancel()
