"""Whatever callers send, they get a clear 4xx, and the server is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bad_input import BadInput, bad_input_server, cases, worker_pids
from support.server import SeawayServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    started = bad_input_server(tmp_path_factory.mktemp("bad"))
    yield started
    started.__exit__(None, None, None)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_bad_input_gets_a_clear_refusal_and_costs_no_worker(case: BadInput, server: SeawayServer) -> None:
    before = worker_pids(server)

    answer = case.send(server.http)

    assert (answer.status_code, list(answer.json())) == (case.status, ["error"])
    assert case.says in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert str(server.home) not in answer.text
    assert worker_pids(server) == before
    assert server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()["outputs"] == [2, 4, 6]


def test_a_refused_upload_leaves_no_row_and_no_file(server: SeawayServer) -> None:
    for case in cases():
        if case.files:
            case.send(server.http)
    names = [item["name"] for item in server.http.get("/api/models").json()["items"]]
    artifacts = Path(server.home) / "artifacts"
    assert names == ["endless", "flights", "scale"]
    assert len(list(artifacts.glob("sha256/*/*"))) == len(names)
    assert not list((artifacts / "staging").iterdir())


def test_a_run_without_end_is_stopped_at_its_deadline_and_its_engine_goes_on(server: SeawayServer) -> None:
    before = worker_pids(server)
    for _ in range(4):
        answer = server.http.post(
            "/predict/endless",
            json={"inputs": {"go": [True], "x": [1.0]}},
            headers={"X-Request-Timeout-Seconds": "0.3"},
        )
        assert answer.status_code == 504
        assert answer.elapsed.total_seconds() < 2
    fine = server.http.post("/predict/endless", json={"inputs": {"go": [False], "x": [7.0]}}, timeout=10)
    assert fine.json()["outputs"] == [7.0]
    assert worker_pids(server) == before
