"""Control's line to the gateways: pushes routing tables and waits until each one uses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from seaway.serving import bus
from seaway.types import RoutingTable

log = structlog.get_logger()

ACKNOWLEDGE_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class GatewayLink:
    index: int
    pid: int
    writer: asyncio.StreamWriter
    generation: int = -1


class GatewayHub:
    """The gateways that are connected now, and the table they should use."""

    def __init__(
        self,
        run: Path,
        *,
        expected: int,
        replace: Callable[[int], None],
        demoted: Callable[[int, str], None],
        spent: Callable[[str, int, float], None],
    ) -> None:
        """`demoted` is called with the revision that a gateway stopped running itself, and why; `spent` with a
        model, a version and the CPU seconds that a gateway spent on it since it last said so.
        """
        self._table_file = run / "table.json"
        self._socket = run / "bus.sock"
        self._expected = expected
        self._replace = replace
        self._demoted = demoted
        self._spent = spent
        self._links: set[GatewayLink] = set()
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self.table = self._last_table()

    def _last_table(self) -> RoutingTable:
        """What an earlier control published in this run; gateways still route by it."""
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode(self._table_file.read_bytes(), type=RoutingTable)
        return RoutingTable(0)

    @property
    def links(self) -> list[GatewayLink]:
        return sorted(self._links, key=lambda link: link.index)

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._socket), limit=bus.LIMIT_BYTES)

    async def wait_for_gateways(self, seconds: float) -> None:
        """Until every expected gateway is connected, or `seconds` have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: len({link.index for link in self._links}) >= self._expected)

    async def publish(self, table: RoutingTable) -> None:
        """Send `table`; returns when every connected gateway uses it. One that doesn't within 2 s is replaced."""
        encoded = msgspec.json.encode(table)
        temporary = self._table_file.with_suffix(".new")
        temporary.write_bytes(encoded)
        temporary.replace(self._table_file)
        self.table = table
        for link in self._links:
            self._send(link)
        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS), self._changed:
                await self._changed.wait_for(lambda: all(link.generation >= table.generation for link in self._links))
        except TimeoutError:
            for link in [link for link in self._links if link.generation < table.generation]:
                log.warning("gateway.replaced", index=link.index, generation=table.generation)
                self._links.discard(link)
                self._replace(link.index)

    def _send(self, link: GatewayLink) -> None:
        bus.send(link.writer, "table", table=self.table)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: GatewayLink | None = None
        try:
            async for message in bus.receive(reader):
                if message["kind"] == "gateway":
                    link = GatewayLink(message["index"], message["pid"], writer)
                    self._links.add(link)
                    if self.table.generation > 0:
                        self._send(link)
                elif message["kind"] == "ack" and link is not None:
                    link.generation = message["generation"]
                elif message["kind"] == "demote":
                    self._demoted(int(message["revision"]), str(message["reason"]))
                elif message["kind"] == "spent":
                    self._spent(str(message["model"]), int(message["version"]), float(message["cpu_seconds"]))
                async with self._changed:
                    self._changed.notify_all()
        except (bus.BusBroken, KeyError, TypeError, ValueError) as error:
            log.warning("gateway.line_broken", reason=str(error))
        finally:
            writer.close()
            if link is not None:
                self._links.discard(link)
                async with self._changed:
                    self._changed.notify_all()

    def describe(self) -> list[dict[str, Any]]:
        return [{"index": link.index, "pid": link.pid, "generation": link.generation} for link in self.links]
