"""Requests and replies as the load generators see them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load

PLACEHOLDER = b"@" * 55


def test_requests_survive_their_file(tmp_path: Path) -> None:
    requests = [b"POST / HTTP/1.1\r\n\r\n12\n34", b"", bytes(range(256))]
    assert load.read_requests(load.write_requests(tmp_path / "requests", requests)) == requests


@pytest.mark.parametrize(
    ("received", "length"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 43),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\nx: y\r\n\r\nabcde", 48),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 60),
    ],
)
def test_the_length_of_a_reply_is_known_once_its_head_or_last_chunk_is(received: bytes, length: int | None) -> None:
    assert load.reply_length(received) == length


def test_a_lone_request_is_sent_again_and_again() -> None:
    following = load.supply([b"one"], 0)
    assert [following() for _ in range(3)] == [b"one"] * 3


def test_several_requests_are_sent_in_turn_with_a_traceparent_never_seen_before() -> None:
    following = load.supply([b"a" + PLACEHOLDER + b"z", b"b" + PLACEHOLDER + b"z"], 0)
    sent = [following() for _ in range(100)]
    assert [request[:1] for request in sent[:4]] == [b"a", b"b", b"a", b"b"]
    assert len(set(sent)) == 100
    assert all(len(request) == 57 for request in sent)


def test_a_traceparent_has_the_form_that_w3c_gives_it() -> None:
    version, trace, parent, flags = load.traceparent(random.Random(0)).split(b"-")
    assert (version, len(trace), len(parent), flags) == (b"00", 32, 16, b"01")


def test_percentiles_are_of_the_durations_in_milliseconds() -> None:
    assert load.percentiles([number / 1000 for number in range(1000)]) == pytest.approx(
        {"p50_ms": 500, "p99_ms": 990, "p999_ms": 999, "max_ms": 999}
    )
    assert set(load.percentiles([]).values()) == {0.0}


def test_an_open_loop_tells_refusals_from_errors() -> None:
    answers = itertools.cycle([b"200 OK", b"429 Too Many Requests", b"500 Internal Server Error"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 " + next(answers) + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def run() -> dict[str, Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            loop = load.OpenLoop(port, lambda: b"GET / HTTP/1.1\r\n\r\n", connections=1)
            seen = await loop.run(2000, 0.15, seed=1)
            await ended.wait()
        return seen

    ended = asyncio.Event()
    found = asyncio.run(run())
    counts = [found["requests"], found["refused"], found["errors"]]
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 1
    assert found["refused_p99_ms"] > 0
