"""Gateways that run a model themselves while the server is asked for nothing else, on a real server."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from seaway.serving.process import available_cpus
from support import graphs
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, write_package

pytestmark = pytest.mark.timeout(180)
SIZE, PRODUCTS = 512, 34


def half_a_millisecond() -> bytes:
    """3 numbers, through many products with one matrix that moves what it is given by a place each time."""
    moved = np.roll(np.eye(SIZE, dtype=np.float32), 1, axis=1)
    return graphs.repeated_product(moved, PRODUCTS)


@pytest.fixture
def server() -> Iterator[SeawayServer]:
    with SeawayServer(gateways=len(available_cpus())) as one:
        yield one


def ask(http: httpx.Client, model: str, inputs: Any) -> httpx.Response:
    return http.post(f"/predict/{model}", json={"inputs": inputs}, headers={"x-request-timeout-seconds": "1"})


@contextlib.contextmanager
def standing_still(server: SeawayServer, model: str) -> Iterator[None]:
    """Its workers answer nothing meanwhile."""

    def ready() -> list[int]:
        live = server.http.get(f"/api/deployments/{model}").json()["live"]
        pids = [worker["pid"] for worker in live["workers"] if worker["phase"] == "ready"]
        # All of them, and none without a pid: 0 would be this process and all that it belongs to.
        return pids if len(pids) == live["choice"]["processes"] and all(pids) else []

    wait_until(ready, 30)
    pids = ready()
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_gateways_answer_while_nothing_else_is_asked_for_and_workers_otherwise(
    server: SeawayServer, tmp_path: Path
) -> None:
    server.register("medium", write_package(tmp_path / "medium", half_a_millisecond()))
    server.register("tiny", write_package(tmp_path / "tiny", scale_model(2.0)))
    server.deploy("tiny")
    why = (
        server.deploy("medium", joint_runs="never")
        and server.http.get("/api/deployments/medium").json()["live"]["choice"]["why"]
    )
    assert "gateways run it, too" in why
    given = np.zeros(SIZE).tolist()
    given[0] = 1.5
    expected = np.roll(given, PRODUCTS).tolist()

    # One connection, so that one gateway has all of its requests; it runs them after a moment of nothing else.
    with httpx.Client(base_url=str(server.http.base_url)) as http:
        with standing_still(server, "medium"):
            wait_until(lambda: ask(http, "medium", given).status_code == 200, 30)
            for _ in range(50):
                answer = ask(http, "medium", given)
                assert answer.json()["outputs"] == expected, answer.text
            assert ask(http, "tiny", [1, 2, 3]).json()["outputs"] == [2, 4, 6]
            assert ask(http, "medium", given).status_code == 504, "now it's the workers' turn, who stand still"
        wait_until(lambda: ask(http, "medium", given).status_code == 200, 30)
        assert ask(http, "medium", given).json()["outputs"] == expected


def test_who_asks_for_workers_gets_workers(server: SeawayServer, tmp_path: Path) -> None:
    server.register("medium", write_package(tmp_path, half_a_millisecond()))
    server.deploy("medium", placement="worker")
    choice = server.http.get("/api/deployments/medium").json()["live"]["choice"]
    assert choice["placement"] == "worker"
    assert "gateways run it" not in choice["why"]
