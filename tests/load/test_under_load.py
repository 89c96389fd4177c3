"""What callers notice of deploys, crashes and shutdown while they send requests: as little as promised.

Short here, so that the suite stays fast; `make load` runs the same for a minute each (SEAWAY_TEST_LOAD_SECONDS).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.load import LOST, REFUSED, Load
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, write_package

SECONDS = float(os.environ.get("SEAWAY_TEST_LOAD_SECONDS", "6"))
QUESTION = ("/predict/scale", {"inputs": [1.0, 2.0, 3.0]})
FACTORS = {1: 2.0, 2: 5.0}
pytestmark = [pytest.mark.load, pytest.mark.timeout(60 + 6 * SECONDS)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeawayServer]:
    with SeawayServer(gateways=2) as one:
        for version, factor in FACTORS.items():
            one.register("scale", write_package(tmp_path / str(version), scale_model(factor)))
        one.deploy("scale", 1)
        yield one


def workers(server: SeawayServer) -> list[dict[str, int]]:
    live = server.http.get("/api/status").json()["models"]["scale"]["workers"]
    return [worker for worker in live if worker["phase"] == "ready"]


def pause(seconds: float) -> None:
    """Let load run for a while: what is measured is what happens meanwhile."""
    threading.Event().wait(seconds)


def test_no_request_fails_while_versions_are_deployed_in_turn_and_every_answer_is_its_version_s(
    server: SeawayServer,
) -> None:
    deploys = max(4, int(SECONDS / 3))
    with Load(server.url, [QUESTION]) as load:
        for turn in range(deploys):
            server.deploy("scale", 2 - turn % 2)
            pause(SECONDS / deploys / 2)
    assert set(load.statuses()) == {200}
    for sample in load.samples:
        factor = FACTORS[int(sample.version)]
        assert sample.body["version"] == int(sample.version)
        assert sample.body["outputs"] == [factor, 2 * factor, 3 * factor]
    assert {sample.version for sample in load.samples} == {"1", "2"}


def test_a_killed_worker_costs_only_what_it_ran_and_nobody_waits_long(server: SeawayServer) -> None:
    kills = max(2, int(SECONDS / 3))
    with Load(server.url, [QUESTION]) as load:
        for _ in range(kills):
            (victim,) = workers(server)
            os.kill(victim["pid"], signal.SIGKILL)
            wait_until(lambda gone=victim: any(w["pid"] != gone["pid"] for w in workers(server)), 10)
            before = load.statuses()[200]
            load.wait_for(lambda now, at=before: now.statuses()[200] > at + 20, 10)
    statuses = load.statuses()
    assert set(statuses) <= {200, 503}
    engines = victim["engines"]
    assert statuses[503] <= 2 * engines * kills
    assert all(sample.seconds < 0.1 for sample in load.samples if sample.status == 503)
    assert max(sample.seconds for sample in load.samples) < 2


def counted(server: SeawayServer) -> int:
    total = 0.0
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith('seaway_requests_total{model="scale"'):
            total += float(line.rpartition(" ")[2])
    return int(total)


def test_every_answer_is_counted_once_over_all_gateways(server: SeawayServer) -> None:
    with Load(server.url, [QUESTION], limit=2000) as load:
        load.join()
    assert load.statuses() == {200: 2000}
    assert counted(server) == 2000


def test_counters_stay_exact_when_a_worker_and_a_gateway_are_killed(server: SeawayServer) -> None:
    with Load(server.url, [QUESTION], limit=4000) as load:
        load.wait_for(lambda now: len(now.samples) > 500)
        os.kill(workers(server)[0]["pid"], signal.SIGKILL)
        load.wait_for(lambda now: len(now.samples) > 1500)
        os.kill(server.pids["gateway-0"], signal.SIGKILL)
        load.join()
    statuses = load.statuses()
    assert statuses[LOST] <= load.connections
    # What was in flight in the killed gateway may have been counted or not.
    assert 4000 - statuses[LOST] <= counted(server) <= 4000


def test_sigterm_under_load_loses_no_request_that_was_accepted(server: SeawayServer) -> None:
    with Load(server.url, [QUESTION], stop_when_refused=True) as load:
        load.wait_for(lambda now: len(now.samples) > 500)
        assert server.stop(signal.SIGTERM) == 0
        load.join()
    assert set(load.statuses()) <= {200, REFUSED}


def test_the_death_of_control_costs_no_prediction(server: SeawayServer) -> None:
    with Load(server.url, [QUESTION]) as load:
        load.wait_for(lambda now: len(now.samples) > 200)
        before = server.pids
        os.kill(before["control"], signal.SIGKILL)
        wait_until(lambda: server.http.get("/api/status").status_code == 200, 15)
        seen = len(load.samples)
        load.wait_for(lambda now: len(now.samples) > seen + 200)
        after = server.pids
    assert set(load.statuses()) == {200}
    assert after["control"] != before["control"]
    same = [name for name in before if name.startswith("w")]
    assert same, "no worker was listed"
    assert {name: after.get(name) for name in same} == {name: before[name] for name in same}
