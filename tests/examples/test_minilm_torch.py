"""examples/minilm_transformers and minilm_export: Seaway answers as transformers does, and as the authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.minilm_export import build as exported
from examples.minilm_transformers import build as plain

from seaway.serving.predictor import Predictor

TEXTS = (
    *plain.SENTENCES,
    "One",
    "A much longer text, of several words and two sentences. Here is the other, which makes it longer still. " * 3,
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, built; building checks the published cosines."""
    folder = tmp_path_factory.mktemp("minilm")
    return {
        "transformers": plain.build(folder / "transformers"),
        "export": exported.build(folder / "export"),
    }


@pytest.fixture(scope="module", params=["transformers", "export"])
def predictor(request: pytest.FixtureRequest, packages: dict[str, Path]) -> Predictor:
    return Predictor.open(packages[request.param], model="m", version=1, max_body_bytes=1 << 20)


@pytest.fixture(scope="module")
def expected(packages: dict[str, Path]) -> np.ndarray[Any, Any]:
    return plain.embed(packages["transformers"], TEXTS)


def test_the_known_answers_are_given(predictor: Predictor) -> None:
    predictor.warm_up()


def test_texts_together_get_transformers_own_answers(predictor: Predictor, expected: np.ndarray[Any, Any]) -> None:
    assert np.abs(np.array(predictor._outputs_for(list(TEXTS))) - expected).max() < 1e-4


def test_each_text_alone_gets_the_same_answer(predictor: Predictor, expected: np.ndarray[Any, Any]) -> None:
    for text, vector in zip(TEXTS, expected, strict=True):
        assert np.abs(np.array(predictor._outputs_for(text)) - vector).max() < 1e-4


def test_only_the_vectors_leave_the_device(predictor: Predictor) -> None:
    (output,) = predictor.signature.outputs
    assert (output.name, output.shape) == ("embedding", (-1, 384))


def test_other_weights_fail_the_checks() -> None:
    for module in (plain, exported):
        with pytest.raises(SystemExit, match="published"):
            module.check(np.eye(3))
