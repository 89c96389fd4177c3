"""The real MiniLM through transformers in the batch lane of a real server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.minilm_transformers import build

from support.server import SeawayServer

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.timeout(300)
WORDS = "the weather is lovely today it was so sunny outside he drove to the stadium and back again".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("minilm") / "package")


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[SeawayServer]:
    with SeawayServer() as one:
        one.register("minilm", package)
        one.deploy("minilm", lane="batch", max_queue_size=2000, timeout_seconds=200)
        yield one


def texts() -> list[str]:
    chance = random.Random(3)
    return [" ".join(chance.choices(WORDS, k=chance.choice([1, 3, 5, 8, 12, 20, 60]))) for _ in range(1000)]


def ask(server: SeawayServer, model: str, texts: list[str], *, at_once: int) -> Array:
    """Each text's vector, each asked for in a request of its own."""

    def one(text: str) -> list[float]:
        answer = server.http.post(f"/predict/{model}", json={"inputs": text}, timeout=200).raise_for_status().json()
        found: list[float] = answer["outputs"]
        return found

    with ThreadPoolExecutor(at_once) as threads:
        return np.array(list(threads.map(one, texts)))


def test_a_thousand_concurrent_texts_of_any_length_get_the_answers_they_get_alone(server: SeawayServer) -> None:
    alone = ask(server, "minilm", texts(), at_once=1)
    assert np.abs(ask(server, "minilm", texts(), at_once=64) - alone).max() < 1e-4


def test_in_bf16_a_thousand_concurrent_texts_get_almost_what_they_get_alone_in_fp32(
    server: SeawayServer, package: Path
) -> None:
    server.register("rough", package)
    server.deploy("rough", lane="batch", dtype="bf16", max_queue_size=2000, timeout_seconds=200)
    exact, rough = ask(server, "minilm", texts(), at_once=8), ask(server, "rough", texts(), at_once=64)
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() >= 0.999
    assert np.abs(exact - rough).max() > 0, "computed in another precision"


def test_answers_are_those_of_transformers_itself(server: SeawayServer, package: Path) -> None:
    texts = ("One", *build.SENTENCES)
    answer = server.http.post("/predict/minilm", json={"inputs": list(texts)}).raise_for_status().json()
    assert np.abs(np.array(answer["outputs"]) - build.embed(package, texts)).max() < 1e-4
