"""A slow model beside a fast one, on a real server: who runs on which core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.load import Load
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, slow_model, write_package

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="A single core can't be shared out."),
]
FAST = [("/predict/fast", {"inputs": [1, 2, 3]})]
SLOW = [("/predict/slow", {"inputs": [1.0]})]


def serving(**settings: Any) -> SeawayServer:
    return SeawayServer(gateways=2, **settings)


def deploy(server: SeawayServer, directory: Path) -> None:
    for model, graph in (("fast", scale_model(2.0)), ("slow", slow_model())):
        server.register(model, write_package(directory / model, graph))
        server.deploy(model)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    with serving() as one:
        deploy(one, tmp_path_factory.mktemp("packages"))
        yield one


def status(server: SeawayServer) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/api/status").raise_for_status().json()
    return found


def cores_of_gateways(server: SeawayServer) -> list[set[int]]:
    return [os.sched_getaffinity(gateway["pid"]) for gateway in status(server)["gateways"]]


def cores_of_engines(server: SeawayServer) -> set[int]:
    """All that the slow model's engines may use."""
    (worker,) = status(server)["models"]["slow"]["workers"]
    threads = [int(task.name) for task in Path(f"/proc/{worker['pid']}/task").iterdir()]
    # Only engines are bound to cores.
    bound = [cores for thread in threads if (cores := os.sched_getaffinity(thread)) != os.sched_getaffinity(0)]
    return set().union(*bound)


def test_each_keeps_to_cores_of_its_own_while_both_are_busy_and_has_all_again_after(server: SeawayServer) -> None:
    everything = os.sched_getaffinity(0)
    assert cores_of_gateways(server) == [everything, everything]

    def apart() -> bool:
        mine = set().union(*cores_of_gateways(server))
        return mine < everything and not mine & cores_of_engines(server)

    with Load(server.url, SLOW, connections=4), Load(server.url, FAST, connections=4):
        wait_until(apart, 20, lambda: f"{cores_of_gateways(server)} {cores_of_engines(server)}")
    wait_until(lambda: cores_of_gateways(server) == [everything, everything], 20)
    with Load(server.url, SLOW, connections=4):
        wait_until(lambda: len(cores_of_engines(server)) > 1, 20)


def test_a_fast_model_alone_uses_all_cores(server: SeawayServer) -> None:
    with Load(server.url, FAST, connections=4, limit=2_000) as load:
        load.join()
    assert cores_of_gateways(server) == [os.sched_getaffinity(0)] * 2
    assert {sample.status for sample in load.samples} == {200}


def test_without_isolation_nobody_is_moved(tmp_path: Path) -> None:
    everything = os.sched_getaffinity(0)
    with serving(isolation="false") as one:
        deploy(one, tmp_path)
        with Load(one.url, SLOW, connections=2), Load(one.url, FAST, connections=2, limit=500) as load:
            load.join()
            assert cores_of_gateways(one) == [everything, everything]
            assert cores_of_engines(one) == everything
