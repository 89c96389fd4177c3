"""Triton's Python client as people have it, against a real server: by default it sends binary tensors, untyped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from support.server import SeawayServer

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {"flights": EXAMPLES / "flights" / "package", "digits": EXAMPLES / "digits" / "package"}
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[SeawayServer]:
    with SeawayServer() as one:
        for model, package in PACKAGES.items():
            one.register(model, package)
            one.deploy(model)
        yield one


@pytest.fixture
def client(server: SeawayServer) -> Iterator[triton.InferenceServerClient]:
    one = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield one
    one.close()


def question(model: str) -> tuple[ort.InferenceSession, np.ndarray]:
    session = ort.InferenceSession(PACKAGES[model] / "model.onnx", providers=["CPUExecutionProvider"])
    shape = [4 if isinstance(extent, str) or extent is None else extent for extent in session.get_inputs()[0].shape]
    return session, np.random.default_rng(7).random(shape, dtype=np.float32)


def as_input(module: object, session: ort.InferenceSession, array: np.ndarray) -> object:
    tensor = module.InferInput(session.get_inputs()[0].name, list(array.shape), "FP32")  # type: ignore[attr-defined]
    tensor.set_data_from_numpy(array)
    return tensor


@pytest.mark.parametrize("model", PACKAGES)
def test_the_default_client_gets_what_onnxruntime_gives(model: str, client: triton.InferenceServerClient) -> None:
    session, array = question(model)
    result = client.infer(model, [as_input(triton, session, array)])
    for output, expected in zip(
        session.get_outputs(), session.run(None, {session.get_inputs()[0].name: array}), strict=True
    ):
        np.testing.assert_allclose(result.as_numpy(output.name), expected, atol=1e-5)


@pytest.mark.parametrize("model", PACKAGES)
async def test_so_does_the_asynchronous_one_also_compressed(model: str, server: SeawayServer) -> None:
    session, array = question(model)
    (expected, *_) = session.run(None, {session.get_inputs()[0].name: array})
    async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
        for packing in (None, "gzip", "deflate"):
            result = await client.infer(
                model, [as_input(triton_aio, session, array)],
                request_compression_algorithm=packing, response_compression_algorithm=packing,
            )  # fmt: skip
            np.testing.assert_allclose(result.as_numpy(session.get_outputs()[0].name), expected, atol=1e-5)
        assert (await client.get_model_metadata(model))["name"] == model
        assert (await client.get_model_config(model))["name"] == model
        assert {entry["name"] for entry in await client.get_model_repository_index()} == set(PACKAGES)
        assert (await client.get_inference_statistics(model))["model_stats"]


def test_json_tensors_and_listed_outputs_work_too(client: triton.InferenceServerClient) -> None:
    session, array = question("flights")
    tensor = triton.InferInput("features", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=False)
    wanted = triton.InferRequestedOutput("probabilities", binary_data=False)
    result = client.infer("flights", [tensor], outputs=[wanted], request_id="r-1")
    np.testing.assert_allclose(result.as_numpy("probabilities"), session.run(None, {"features": array})[0], atol=1e-5)
    assert result.get_response()["id"] == "r-1"


def test_classification_names_the_labels(client: triton.InferenceServerClient) -> None:
    _, array = question("flights")
    tensor = triton.InferInput("features", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    wanted = triton.InferRequestedOutput("probabilities", class_count=1)
    ranked = client.infer("flights", [tensor], outputs=[wanted]).as_numpy("probabilities")
    assert {entry.decode().split(":")[2] for entry in ranked.reshape(-1)} <= {"on_time", "late"}


def test_health_metadata_configuration_and_statistics_are_as_the_client_reads_them(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "1")
    assert not client.is_model_ready("nobody")
    assert "statistics" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("flights")["inputs"][0]["shape"] == [-1, 13]
    configuration = client.get_model_config("flights")
    assert (configuration["max_batch_size"], configuration["input"][0]["dims"]) == (65536, [13])
    (found,) = client.get_inference_statistics("flights", "1")["model_stats"]
    assert found["inference_stats"]["success"]["count"] >= 0


def test_load_and_unload_deploy_and_undeploy(client: triton.InferenceServerClient) -> None:
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert states == {"flights": "READY", "digits": "UNAVAILABLE"}
    client.load_model("digits")
    assert client.is_model_ready("digits")


def test_a_refusal_reaches_the_caller_as_a_sentence(client: triton.InferenceServerClient) -> None:
    _, array = question("flights")
    tensor = triton.InferInput("features", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    with pytest.raises(InferenceServerException, match="nobody"):
        client.infer("nobody", [tensor])
