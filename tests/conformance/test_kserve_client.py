"""KServe's own client, as its package ships it, against a served example."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from support.server import SeawayServer

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "flights" / "package"
ROWS = np.linspace(0, 12, 39, dtype=np.float32).reshape(3, 13)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def server() -> Iterator[SeawayServer]:
    with SeawayServer() as one:
        one.register("flights", PACKAGE)
        one.deploy("flights")
        yield one


@pytest.fixture
async def client() -> AsyncIterator[InferenceRESTClient]:
    one = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    yield one
    await one.close()


def expected() -> np.ndarray:
    session = onnxruntime.InferenceSession(PACKAGE / "model.onnx")
    return np.asarray(session.run(["probabilities"], {"features": ROWS})[0])


def request(*, binary: bool) -> InferRequest:
    features = InferInput("features", list(ROWS.shape), "FP32")
    features.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest("flights", [features], request_id="r-1")


async def test_the_server_is_live_and_ready(server: SeawayServer, client: InferenceRESTClient) -> None:
    assert await client.is_server_live(server.url)
    assert await client.is_server_ready(server.url)


async def test_a_deployed_model_is_ready_and_an_unknown_one_is_not(
    server: SeawayServer, client: InferenceRESTClient
) -> None:
    assert await client.is_model_ready(server.url, "flights")
    assert not await client.is_model_ready(server.url, "nobody")


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
async def test_it_infers_what_onnxruntime_gives(
    server: SeawayServer, client: InferenceRESTClient, binary: bool
) -> None:
    answer = await client.infer(server.url, request(binary=binary), model_name="flights")
    assert answer.model_name == "flights"
    assert answer.id == "r-1"
    (output,) = answer.outputs
    assert output.name == "probabilities"
    np.testing.assert_allclose(output.as_numpy(), expected(), rtol=0, atol=TOLERANCE)


async def test_a_refusal_reaches_the_caller_as_the_server_said_it(
    server: SeawayServer, client: InferenceRESTClient
) -> None:
    features = InferInput("features", [1, 2], "FP32", data=[1.0, 2.0])
    with pytest.raises(httpx.HTTPStatusError, match="features"):
        await client.infer(server.url, InferRequest("flights", [features]), model_name="flights")
