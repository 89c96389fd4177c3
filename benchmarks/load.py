"""Load generators. Each runs in a process of its own, so that none of its work is counted as the server's.

    python benchmarks/load.py closed PORT REQUESTS --connections 8 --seconds 2
    python benchmarks/load.py open PORT REQUESTS --rate 300 --seconds 4

REQUESTS is a file that `write_requests` has made. In a closed loop each connection sends its next request when it has
the reply to the last one; wrk does that faster, this one needs nothing but Python. In an open loop requests are sent at
random moments of a fixed mean rate, as independent users do, whether or not earlier ones were answered; their time
counts from the moment they were due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import select
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 15.0
PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
PLACEHOLDER = re.compile(rb"@{55}")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_LUA = Path(__file__).with_name("wrk.lua")


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """A file with whole HTTP requests, each after a line with its length."""
    path.write_bytes(b"".join(b"%d\n%s" % (len(request), request) for request in requests))
    return path


def read_requests(path: Path) -> list[bytes]:
    content, requests, at = path.read_bytes(), [], 0
    while at < len(content):
        end = content.index(b"\n", at)
        length = int(content[at:end])
        requests.append(content[end + 1 : end + 1 + length])
        at = end + 1 + length
    return requests


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return dict.fromkeys([*PERCENTILES, "max_ms"], 0.0)
    last = len(ordered) - 1
    picked = {name: ordered[min(last, int(part * len(ordered)))] * 1e3 for name, part in PERCENTILES.items()}
    return picked | {"max_ms": ordered[-1] * 1e3}


def traceparent(chance: random.Random) -> bytes:
    return b"00-%032x-%016x-01" % (chance.getrandbits(128), chance.getrandbits(64))


def supply(requests: list[bytes], seed: int) -> Callable[[], bytes]:
    """The next request to send: the given ones in turn, with a new traceparent where they have a placeholder."""
    if len(requests) == 1 and not PLACEHOLDER.search(requests[0]):
        only = requests[0]
        return lambda: only
    chance = random.Random(seed)
    parts = [tuple(PLACEHOLDER.split(request, 1)) for request in requests]
    turn = -1

    def following() -> bytes:
        nonlocal turn
        turn = (turn + 1) % len(parts)
        return traceparent(chance).join(parts[turn])

    return following


def reply_length(received: bytes) -> int | None:
    """How long the reply that begins here is, head included; None until that is known."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    if found := _LENGTH.search(received, 0, end + 2):
        return end + 4 + int(found[1])
    # Chunked: to the chunk of length 0. None of the servers measured sends trailers.
    last = received.find(b"\r\n0\r\n\r\n", end)
    return None if last < 0 else last + 7


# ------------------------------------------------------------------------------------------------------ closed loop


@dataclass
class ClosedLoop:
    """N connections over epoll in one thread, each with one request under way."""

    port: int
    following: Callable[[], bytes]
    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def run(self, connections: int, seconds: float) -> dict[str, Any]:
        epoll = select.epoll()
        sockets = {one.fileno(): one for one in (connect(self.port) for _ in range(connections))}
        received = dict.fromkeys(sockets, b"")
        sent = {}
        started = time.perf_counter()
        for number, one in sockets.items():
            epoll.register(number, select.EPOLLIN)
            sent[number] = time.perf_counter()
            one.sendall(self.following())
        end = started + seconds
        while (now := time.perf_counter()) < end and sockets:
            for number, _ in epoll.poll(min(end - now, TIMEOUT_SECONDS)):
                chunk = sockets[number].recv(1 << 20)
                if not chunk:
                    self.errors += 1
                    epoll.unregister(number)
                    sockets.pop(number).close()
                    continue
                received[number] += chunk
                length = reply_length(received[number])
                if length is None or len(received[number]) < length:
                    continue
                self._count(received[number], time.perf_counter() - sent[number])
                received[number] = b""
                sent[number] = time.perf_counter()
                sockets[number].sendall(self.following())
        elapsed = time.perf_counter() - started
        for one in sockets.values():
            one.close()
        return result(self.seconds, self.errors, elapsed)

    def _count(self, reply: bytes, seconds: float) -> None:
        if reply.startswith(b"HTTP/1.1 200"):
            self.seconds.append(seconds)
        else:
            self.errors += 1


def connect(port: int) -> socket.socket:
    one = socket.create_connection((HOST, port), TIMEOUT_SECONDS)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def result(seconds: list[float], errors: int, elapsed: float) -> dict[str, Any]:
    return {
        "requests": len(seconds),
        "errors": errors,
        "seconds": elapsed,
        "requests_per_second": len(seconds) / elapsed,
        **percentiles(seconds),
    }


# ------------------------------------------------------------------------------------------------------ open loop


@dataclass
class OpenLoop:
    """Poisson arrivals over a pool of connections."""

    port: int
    following: Callable[[], bytes]
    connections: int = 64
    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    """Of answers 429 and 503, which say that there is too much to do."""
    in_time: int = 0
    """Answers that came while requests were still being sent."""
    sending: bool = True
    errors: int = 0

    async def run(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        opened = [await asyncio.open_connection(HOST, self.port) for _ in range(self.connections)]
        for pair in opened:
            free.put_nowait(pair)
        chance = random.Random(seed)
        started = due = time.perf_counter()
        tasks = set()
        while (due := due + chance.expovariate(rate)) - started < seconds:
            # Also without waiting, so that replies are read when many requests are due at once.
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(self._one(free, due)))
        elapsed = time.perf_counter() - started
        self.sending = False
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=TIMEOUT_SECONDS)
            self.errors += len(late)
            for task in late:
                task.cancel()
        for _, writer in opened:
            writer.close()
        # What is answered after the end is no throughput: without refusals, the whole backlog would be.
        in_time = {"requests_per_second": self.in_time / elapsed}
        refused = {"refused": len(self.refused), "refused_p99_ms": percentiles(self.refused)["p99_ms"]}
        return result(self.seconds, self.errors, elapsed) | refused | in_time

    async def _one(self, free: asyncio.Queue[Any], due: float) -> None:
        reader, writer = await free.get()
        try:
            writer.write(self.following())
            received = b""
            while (length := reply_length(received)) is None or len(received) < length:
                chunk = await reader.read(1 << 20)
                if not chunk:
                    raise ConnectionResetError
                received += chunk
        except OSError:
            self.errors += 1
            return
        if received.startswith(b"HTTP/1.1 200"):
            self.seconds.append(time.perf_counter() - due)
            self.in_time += self.sending
        elif received.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503")):
            self.refused.append(time.perf_counter() - due)
        else:
            self.errors += 1
        free.put_nowait((reader, writer))


def run_open(port: int, requests: list[bytes], rate: float, seconds: float, connections: int) -> dict[str, Any]:
    # select() waits to the microsecond, epoll and poll only to the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(OpenLoop(port, supply(requests, 0), connections).run(rate, seconds, seed=0))


# ------------------------------------------------------------------------------------------------------ processes


def closed_command(port: int, requests: Path, connections: int, seconds: float) -> list[str]:
    """wrk where it is installed, else this file."""
    if wrk := shutil.which("wrk"):
        url = f"http://{HOST}:{port}/"
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_SECONDS:g}s"]
        return [wrk, *options, "-s", str(_LUA), url, "--", str(requests)]
    return python_closed_command(port, requests, connections, seconds)


def python_closed_command(port: int, requests: Path, connections: int, seconds: float) -> list[str]:
    own = [sys.executable, str(Path(__file__)), "closed", str(port), str(requests)]
    return [*own, "--connections", str(connections), "--seconds", str(seconds)]


def open_command(port: int, requests: Path, rate: float, seconds: float) -> list[str]:
    own = [sys.executable, str(Path(__file__)), "open", str(port), str(requests)]
    return [*own, "--rate", str(rate), "--seconds", str(seconds)]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What a generator says at its end: its last line, as JSON."""
    try:
        output, _ = process.communicate(timeout=seconds + 2 * TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError("The load generator did not end.") from None
    last = output.strip().splitlines()[-1] if output.strip() else ""
    if process.returncode != 0 or not last.startswith("{"):
        raise RuntimeError(f"The load generator failed: {output[-500:]}")
    return dict(json.loads(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["closed", "open"])
    parser.add_argument("port", type=int)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--connections", type=int, help="default 8, in an open loop 64 to choose from")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    requests = read_requests(given.requests)
    if given.kind == "open":
        answer = run_open(given.port, requests, given.rate, given.seconds, given.connections or 64)
    else:
        answer = ClosedLoop(given.port, supply(requests, os.getpid())).run(given.connections or 8, given.seconds)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
