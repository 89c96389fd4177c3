"""Versions on torch, on a real server, in the CPU lane: registered, deployed, asked in both interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from support import torches
from support.server import SeawayServer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server() -> Iterator[SeawayServer]:
    with SeawayServer() as one:
        yield one


def predict(server: SeawayServer, model: str, inputs: object) -> httpx.Response:
    return server.http.post(f"/predict/{model}", json={"inputs": inputs})


def test_layers_answer_and_stay_in_workers(server: SeawayServer, tmp_path: Path) -> None:
    server.register("layers", torches.write_layers(tmp_path))
    server.deploy("layers")

    assert predict(server, "layers", [1, 2, 3]).json()["outputs"] == [2, 4, 6]
    live = server.http.get("/api/deployments/layers").json()["live"]
    assert "gateways don't load" in str(live)


def test_an_archive_answers(server: SeawayServer, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(torches.scale_archive(3.0))
    server.register("archive", tmp_path / "model.pt2")
    server.deploy("archive")

    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    answer = server.http.post("/v2/models/archive/infer", json=body).json()

    assert (answer["outputs"][0]["name"], answer["outputs"][0]["data"]) == ("y", [3, 6, 9])
    assert server.http.get("/v2/models/archive/config").json()["backend"] == "pytorch"


def test_a_classifier_answers_and_token_ids_it_lacks_are_the_callers_error(
    server: SeawayServer, tmp_path: Path
) -> None:
    torches.write_bert(tmp_path, "BertForSequenceClassification", id2label=torches.LABELS)
    server.register("bert", tmp_path)
    server.deploy("bert")

    answers = predict(server, "bert", ["the cat sat", "dog"]).json()["outputs"]
    assert [set(answer["scores"]) for answer in answers] == [set(torches.LABELS.values())] * 2
    assert all(np.isclose(sum(answer["scores"].values()), 1) for answer in answers)

    tensors = [
        {"name": name, "datatype": "INT64", "shape": [1, 1], "data": [99]}
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    refused = server.http.post("/v2/models/bert/infer", json={"inputs": tensors})
    assert (refused.status_code, "'input_ids' holds 99" in refused.json()["error"]) == (400, True)
    assert predict(server, "bert", "dog").status_code == 200


def test_pickles_are_refused_with_the_reason_and_never_read(server: SeawayServer, tmp_path: Path) -> None:
    trap, package = tmp_path / "trap", tmp_path / "package"
    torches.write_bert(package, spec="task: embeddings")
    (package / "pytorch_model.bin").write_bytes(torches.pickled(trap))

    with pytest.raises(AssertionError, match=r"'pytorch_model\.bin' is an archive with pickles"):
        server.register("trapped", package)
    (package / "pytorch_model.bin").write_bytes(b"by its name alone")
    with pytest.raises(AssertionError, match=r"'pytorch_model\.bin' is a pickle by its name"):
        server.register("trapped", package)
    assert not trap.exists()
