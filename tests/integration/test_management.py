"""From dataset to lineage over HTTP, against a real server: what operators do in a day."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import SeawayServer
from support.tiny import scale_model, write_package

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    directory = tmp_path_factory.mktemp("packages")
    with SeawayServer() as one:
        for factor in (2.0, 5.0):
            one.register("scale", write_package(directory / str(factor), scale_model(factor)))
        one.deploy("scale", 1)
        yield one


def get(server: SeawayServer, path: str) -> Any:
    answer = server.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_prediction_leads_back_to_the_bytes_of_model_and_data(server: SeawayServer, tmp_path: Path) -> None:
    data = server.http.post("/api/datasets/rows/versions", files=[("files", ("rows.csv", b"a,b\n1,2\n"))])
    assert data.status_code == 201
    known = server.http.post("/api/datasets/rows/versions", files=[("files", ("rows.csv", b"a,b\n1,2\n"))])
    assert (known.status_code, known.json()["version"]) == (200, 1)
    parts = {"dataset": "rows", "model": "traced", "architecture": "linear", "hyper_parameters": {"factor": 3}}
    experiment = server.http.post("/api/experiments", json=parts).json()
    package = write_package(tmp_path, scale_model(3.0))
    version = server.http.post(
        "/api/models/traced/versions",
        files=[("files", ("model.onnx", (package / "model.onnx").read_bytes()))],
        data={"experiment_id": experiment["experiment_id"], "metrics": '{"error": 0.5}'},
    ).json()
    server.deploy("traced")
    answer = server.http.post("/predict/traced", json={"inputs": [1, 2, 3]}).json()

    lineage = get(server, f"/api/predictions/{answer['prediction_id']}")

    assert lineage["artifact_digest"] == version["digest"]
    assert lineage["experiment"]["experiment_id"] == experiment["experiment_id"]
    assert lineage["dataset"]["digest"] == data.json()["digest"]
    (trained,) = get(server, f"/api/experiments/{experiment['experiment_id']}")["trained"]
    assert trained["metrics"] == {"error": 0.5}


def test_deploy_rollback_and_history_tell_one_story(server: SeawayServer) -> None:
    server.deploy("scale", 2, reason="better")
    assert server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()["outputs"] == [5, 10, 15]
    back = server.http.post("/api/deployments/scale/rollback", params={"wait": 30}, json={}).json()
    assert (back["state"], back["arms"][0]["version"]) == ("ready", 1)
    assert server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()["outputs"] == [2, 4, 6]
    deployed, rolled_back = get(server, "/api/deployments/scale/history")["items"][-2:]
    assert (deployed["action"], deployed["reason"], rolled_back["action"]) == ("deploy", "better", "rollback")


def test_a_version_that_cannot_start_leaves_the_old_one_serving_and_says_why(
    server: SeawayServer, tmp_path: Path
) -> None:
    package = write_package(tmp_path, scale_model(9.0))
    version = server.register("scale", package)
    stored = server.home / "artifacts" / "sha256" / version["digest"][:2] / version["digest"] / "model.onnx"
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x00")

    answer = server.http.put("/api/deployments/scale", params={"wait": 30}, json={"version": version["version"]}).json()

    assert answer["state"] == "failed"
    assert "model.onnx" in answer["state_reason"]
    assert server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()["outputs"] == [2, 4, 6]
    assert get(server, "/v2/models/scale/ready")["ready"] is True


def test_an_alias_may_stand_for_a_version(server: SeawayServer) -> None:
    assert server.http.put("/api/models/scale/aliases/champion", json={"version": 2}).status_code == 200
    assert get(server, "/api/models/scale/versions/champion")["version"] == 2
    assert get(server, "/api/models/scale")["aliases"]["champion"] == 2
    assert server.http.delete("/api/models/scale/aliases/champion").status_code == 200
    assert len(get(server, "/api/models/scale/aliases/champion/history")["items"]) == 2


def test_the_description_of_the_api_names_every_route_of_gateway_and_control(server: SeawayServer) -> None:
    paths = get(server, "/openapi.json")["paths"]
    for path in ("/predict/{model}", "/v2/models/{model}/infer", "/api/models/{name}/versions", "/metrics"):
        assert path in paths
    missing = [
        f"{method} {path}" for path, item in paths.items() for method, one in item.items() if not one.get("summary")
    ]
    assert missing == []
    assert server.http.get("/docs").status_code == 200


def test_everyone_sees_who_changed_what_and_what_was_logged(server: SeawayServer) -> None:
    server.http.put("/api/models/scale/aliases/a", json={"version": 1}, headers={"Seaway-Actor": "ana"})
    newest = get(server, "/api/audit?limit=1")["items"][0]
    assert (newest["actor"], newest["action"], newest["entity"]) == ("ana", "alias.set", "scale/a")
    assert all('"scale"' in line for line in get(server, "/api/logs?model=scale&lines=5")["lines"])


def test_a_caller_s_trace_goes_on_in_the_answer(server: SeawayServer) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = server.http.post(
        "/predict/scale", json={"inputs": [1, 2, 3]}, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    )
    assert answer.headers["traceparent"].split("-")[1] == trace
    assert "run;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/metrics", "/docs", "/api/status", "/predict/scale", "/nowhere"])
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "secret"}]
)
def test_with_an_api_key_every_route_asks_for_it(path: str, headers: dict[str, str], guarded: SeawayServer) -> None:
    del_default = {"Authorization": "", **headers}
    assert guarded.http.get(path, headers=del_default).status_code == 401


def test_either_header_may_carry_the_key(guarded: SeawayServer) -> None:
    for headers in ({"Authorization": "Bearer secret"}, {"Authorization": "", "X-API-Key": "secret"}):
        assert guarded.http.get("/v2", headers=headers).status_code == 200


@pytest.fixture(scope="module")
def guarded() -> Iterator[SeawayServer]:
    with SeawayServer(api_key="secret") as one:
        yield one
