"""Low-rate talk between launcher, control and gateways: JSON lines over a Unix socket.

Each line is one object with the key `kind`. Kinds:

    launcher <- control   spawn {config}, signal {worker_id, number}, list {}, replace_gateway {index}
    launcher -> control   workers {workers: [{config, pid}], gateways: [{index, pid}]}, exited {worker_id, pid, status}
    control  <- gateway   gateway {index, pid}, ack {generation}, demote {model, revision, reason},
                          spent {model, version, cpu_seconds}
    control  -> gateway   table {table}

`demote`: the gateway no longer runs that revision (a routing table's `revision`) itself; control tells the others. It
may be sent again, as after a reconnect, and without `gateway` before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from seaway.errors import SeawayError
from seaway.types import WorkerConfig

LIMIT_BYTES = 1 << 26
REFUSAL_FILE = "refusal"
"""In the run directory: why control can't start with these settings, where it ended with EX_CONFIG."""
Message = dict[str, Any]


class BusBroken(SeawayError):
    """The other side sent something that is no message."""


async def connect(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError when nobody listens."""
    return await asyncio.open_unix_connection(path, limit=LIMIT_BYTES)


def send(writer: asyncio.StreamWriter, kind: str, **fields: Any) -> None:
    """Queue one message; the rate is low and messages are small, so nobody waits for the socket."""
    if not writer.is_closing():
        writer.write(msgspec.json.encode({"kind": kind, **fields}, enc_hook=str) + b"\n")


async def receive(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Messages until the other side closes. Raises BusBroken."""
    while True:
        try:
            line = await reader.readline()
        except (ConnectionError, ValueError) as error:
            raise BusBroken(f"The connection broke: {error}.") from error
        if not line:
            return
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise BusBroken(f"This is no message: {error}.") from error
        yield message


def worker_config(value: Any) -> WorkerConfig:
    """The WorkerConfig in a message: paths travel as text."""
    return msgspec.convert(value, WorkerConfig, dec_hook=lambda kind, text: kind(text))
