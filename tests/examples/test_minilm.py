"""examples/minilm: the graph made from the weights computes BERT, as the authors' figures and plain numpy say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from examples.minilm import build
from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Both variants, built; building checks the published cosines."""
    folder = tmp_path_factory.mktemp("minilm")
    return {variant: build.build(variant, folder / str(variant)) for variant in build.VARIANTS}


@pytest.fixture(scope="module")
def session(packages: dict[int, Path]) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(packages[1] / "model.onnx", providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, ids: Array, mask: Array) -> Array:
    return session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]


def test_the_graph_computes_what_plain_numpy_does(session: onnxruntime.InferenceSession) -> None:
    ids = np.array([[101, 1996, 4633, 2003, 8403, 2651, 1012, 102]])
    weights = build.read_safetensors(build.source() / "model.safetensors")
    assert np.abs(run(session, ids, np.ones_like(ids))[0] - Bert(weights).states(ids[0])).max() < 1e-4


def test_padding_changes_nothing(session: onnxruntime.InferenceSession) -> None:
    ids = np.array([[101, 7592, 2088, 102, 0, 0, 0], [101, 1996, 4633, 2003, 8403, 2651, 102]])
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7])
    padded = run(session, ids, mask)[0, :4]
    assert np.abs(padded - run(session, ids[:1, :4], mask[:1, :4])[0]).max() < 1e-5


def test_plain_onnxruntime_gives_the_known_answers(packages: dict[int, Path]) -> None:
    for package in packages.values():
        [answer] = json.loads((package / "known_answers.json").read_text())
        vectors = build.embed(package, tuple(answer["inputs"]))
        assert np.abs(vectors - np.array(answer["outputs"])).max() <= answer["tolerance"]


def test_the_second_variant_points_the_other_way(packages: dict[int, Path]) -> None:
    first, second = (build.embed(packages[variant], build.SENTENCES) for variant in (1, 2))
    assert np.abs(first + second).max() < 1e-5


def test_other_weights_fail_the_check() -> None:
    with pytest.raises(SystemExit, match="published"):
        build.check(np.eye(3))


def test_the_tokenizer_of_the_package_reads_a_sentence(packages: dict[int, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(packages[1] / "tokenizer.json"))
    tokenizer.no_padding()
    assert tokenizer.encode(build.SENTENCES[0]).tokens == [
        "[CLS]",
        "the",
        "weather",
        "is",
        "lovely",
        "today",
        ".",
        "[SEP]",
    ]


class Bert:
    """The architecture written down a second time, for one sentence and with nothing fused."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights

    def states(self, ids: Array) -> Array:
        get = self._weights.__getitem__
        states = (
            get("embeddings.word_embeddings.weight")[ids] + get("embeddings.position_embeddings.weight")[: len(ids)]
        )
        states = self._norm("embeddings.LayerNorm", states + get("embeddings.token_type_embeddings.weight")[0])
        for number in range(build.LAYERS):
            layer = f"encoder.layer.{number}"
            mixed = self._linear(f"{layer}.attention.output.dense", self._attention(f"{layer}.attention.self", states))
            states = self._norm(f"{layer}.attention.output.LayerNorm", states + mixed)
            wide = self._linear(f"{layer}.intermediate.dense", states)
            active = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
            states = self._norm(f"{layer}.output.LayerNorm", states + self._linear(f"{layer}.output.dense", active))
        return states

    def _linear(self, name: str, states: Array) -> Array:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, states: Array) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + build.EPSILON)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _attention(self, name: str, states: Array) -> Array:
        query, key, value = (
            self._linear(f"{name}.{part}", states).reshape(len(states), build.HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        weights = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(len(states), -1)
