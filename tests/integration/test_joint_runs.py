"""Requests that share runs in the CPU lane, on a real server: each with the answer it would have had alone."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from seaway.serving.page import WorkerPage
from support import graphs
from support.load import Load
from support.server import SeawayServer, wait_until
from support.tiny import write_package

pytestmark = pytest.mark.timeout(180)
SIZE, PRODUCTS = 512, 200
QUESTIONS = 24


def product_model() -> bytes:
    """A millisecond or more for a sample alone, which has to fetch all weights 200 times, and hardly more for four."""
    turned, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(SIZE, SIZE)))
    return graphs.repeated_product(turned, PRODUCTS)


def sample(number: int) -> list[float]:
    return np.random.default_rng(number).normal(0, 1, SIZE).round(3).tolist()


@pytest.fixture(params=["processes", "threads"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SeawayServer]:
    """With an engine in each of two processes, or two in one."""
    package = write_package(tmp_path / "products", product_model())
    with SeawayServer(gateways=2) as one:
        one.register("products", package)
        processes = 2 if request.param == "processes" else 1
        one.deploy("products", placement="worker", engines=2, processes=processes)
        wait_until(lambda: len(pids(one)) == processes, 30)  # it answers as soon as one of them does
        yield one


@pytest.fixture
def alone(server: SeawayServer) -> list[Any]:
    """What each question is answered while nobody else asks."""
    return [
        server.http.post("/predict/products", json={"inputs": sample(number)}).raise_for_status().json()["outputs"]
        for number in range(QUESTIONS)
    ]


def live(server: SeawayServer) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/api/deployments/products").raise_for_status().json()["live"]
    return found


def pids(server: SeawayServer) -> list[int]:
    """Of the workers that are ready."""
    return [worker["pid"] for worker in live(server)["workers"] if worker["phase"] == "ready"]


def metric(server: SeawayServer, name: str) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f'{name}{{model="products"'))


def test_what_waits_runs_together_and_everybody_gets_his_own_answer(server: SeawayServer, alone: list[Any]) -> None:
    why = live(server)["choice"]["why"]
    assert "samples of one shape that wait share a run" in why
    wait_until(lambda: metric(server, "seaway_batch_rows_sum") == QUESTIONS, 30)  # workers tell once a second
    runs_before = metric(server, "seaway_batches_total")
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        with httpx.Client(base_url=str(server.http.base_url), timeout=60) as http:
            answers[number] = http.post("/predict/products", json={"inputs": sample(number)})

    stopped = pids(server)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(QUESTIONS)]
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: sent(server) == QUESTIONS, 30)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for thread in threads:
        thread.join(60)
    for number, expected in enumerate(alone):
        answers[number].raise_for_status()
        np.testing.assert_allclose(answers[number].json()["outputs"], expected, rtol=1e-4, atol=1e-5)
    timings = [answers[number].headers["server-timing"] for number in range(QUESTIONS)]
    assert any(" rows" in timing for timing in timings), timings
    wait_until(lambda: metric(server, "seaway_batch_rows_sum") == 2 * QUESTIONS, 30)
    assert metric(server, "seaway_batches_total") - runs_before < QUESTIONS
    statistics = server.http.get("/v2/models/products/stats").json()["model_stats"][0]
    assert statistics["execution_count"] < statistics["inference_count"]


def sent(server: SeawayServer) -> int:
    """How many requests gateways have sent to workers and have no answer to."""
    run = Path((server.home / "run").read_text().strip())
    versions = json.loads((run / "table.json").read_bytes())["versions"]
    workers = next(served["workers"] for served in versions if served["model"] == "products")
    pages = [WorkerPage.attach(Path(worker["page"]), engines=worker["engines"]) for worker in workers]
    found = sum(page.load for page in pages)
    for page in pages:
        page.close()
    return found


def test_one_that_is_refused_doesnt_hurt_those_it_would_have_run_with(server: SeawayServer, alone: list[Any]) -> None:
    good = [("/predict/products", {"inputs": sample(number)}) for number in range(QUESTIONS)]
    bad = [("/predict/products", {"inputs": [1.0] * (SIZE - 1)}), ("/predict/products", {"inputs": "a"})]
    with Load(str(server.http.base_url), [*good, *bad], connections=12) as load:
        load.wait_for(lambda one: len(one.samples) > 300)
    assert set(load.statuses()) == {200, 400}
    for one in load.samples:
        assert (one.status == 200) == (one.question < QUESTIONS)
        if one.status == 200:
            np.testing.assert_allclose(one.body["outputs"], alone[one.question], rtol=1e-4, atol=1e-5)


def test_a_worker_that_dies_amid_joint_runs_leaves_nobody_without_an_answer(
    server: SeawayServer, alone: list[Any]
) -> None:
    questions = [("/predict/products", {"inputs": sample(number)}) for number in range(QUESTIONS)]
    before = set(pids(server))
    with Load(str(server.http.base_url), questions, connections=16) as load:
        load.wait_for(lambda one: len(one.samples) > 100)
        os.kill(min(before), signal.SIGKILL)
        seen = len(load.samples)
        load.wait_for(lambda one: len(one.samples) > seen + 100)
    assert set(load.statuses()) <= {200, 503}
    assert load.statuses()[503] <= 16
    for one in load.samples:
        if one.status == 200:
            np.testing.assert_allclose(one.body["outputs"], alone[one.question], rtol=1e-4, atol=1e-5)
    wait_until(lambda: len(pids(server)) == len(before), 30)


@pytest.mark.parametrize("where", ["server", "deployment", "package"])
def test_never_means_never_wherever_it_is_said(tmp_path: Path, where: str) -> None:
    spec = "serving: {joint_runs: never}" if where == "package" else ""
    package = write_package(tmp_path / "products", product_model(), spec)
    with SeawayServer(gateways=1, **({"joint_runs": "never"} if where == "server" else {})) as one:
        one.register("products", package)
        asked = {"joint_runs": "never"} if where == "deployment" else {}
        one.deploy("products", placement="worker", engines=1, **asked)
        assert "Each request runs alone, as asked for." in live(one)["choice"]["why"]
        profile = one.http.get("/api/models/products/versions/1/profile").raise_for_status().json()
        assert profile["joint"]["rows"] > 1  # what was found stays known
        questions = [("/predict/products", {"inputs": sample(number)}) for number in range(QUESTIONS)]
        with Load(str(one.http.base_url), questions, connections=8, limit=60) as load:
            load.join()
        assert load.statuses() == {200: 60}
        assert metric(one, "seaway_batches_total") == 0
