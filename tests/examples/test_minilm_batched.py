"""The real MiniLM through transformers in the batch lane of a real server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from examples.minilm_transformers import build

from support.server import SeawayServer

pytestmark = pytest.mark.timeout(300)
WORDS = "the weather is lovely today it was so sunny outside he drove to the stadium and back again".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    package = build.build(tmp_path_factory.mktemp("minilm") / "package")
    with SeawayServer() as one:
        one.register("minilm", package)
        one.deploy("minilm", lane="batch", max_queue_size=2000, timeout_seconds=200)
        yield one


def test_a_thousand_concurrent_texts_of_any_length_get_the_answers_they_get_alone(server: SeawayServer) -> None:
    chance = random.Random(3)
    texts = [" ".join(chance.choices(WORDS, k=chance.choice([1, 3, 5, 8, 12, 20, 60]))) for _ in range(1000)]
    limits = httpx.Limits(max_connections=64)

    with httpx.Client(base_url=server.url, timeout=200, limits=limits, trust_env=False) as client:

        def ask(text: str) -> list[float]:
            answer = client.post("/predict/minilm", json={"inputs": text}).raise_for_status().json()
            found: list[float] = answer["outputs"]
            return found

        alone = [ask(text) for text in texts]
        with ThreadPoolExecutor(64) as threads:
            together = list(threads.map(ask, texts))
    assert np.abs(np.array(together) - np.array(alone)).max() < 1e-4


def test_answers_are_those_of_transformers_itself(
    server: SeawayServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = build.build(tmp_path_factory.mktemp("reference") / "package")
    texts = ("One", *build.SENTENCES)
    answer = server.http.post("/predict/minilm", json={"inputs": list(texts)}).raise_for_status().json()
    assert np.abs(np.array(answer["outputs"]) - build.embed(package, texts)).max() < 1e-4
