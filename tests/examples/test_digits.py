"""examples/digits: the pictures are there, the package answers as scikit-learn did, and training repeats itself."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.digits import train
from PIL import Image

HERE = Path(train.__file__).parent
PACKAGE = HERE / "package"
IMAGES = sorted((HERE / "images").glob("*.png"))


def pixels_of(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_plain_onnxruntime_gives_the_known_answers() -> None:
    graph = (PACKAGE / "model.onnx").read_bytes()
    for answer in json.loads((PACKAGE / "known_answers.json").read_text()):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["inputs"]))))
        scores = train.run(graph, train.as_input(pixels))[0].tolist()
        assert scores == pytest.approx(list(answer["outputs"]["scores"].values()), abs=answer["tolerance"])


def test_there_are_two_grey_pictures_of_each_digit() -> None:
    assert [path.name[0] for path in IMAGES] == sorted(train.LABELS * 2)
    assert {pixels_of(path).shape for path in IMAGES} == {(8, 8)}


def test_the_model_reads_most_of_the_pictures() -> None:
    pixels = np.stack([pixels_of(path) for path in IMAGES])
    read = train.run((PACKAGE / "model.onnx").read_bytes(), train.as_input(pixels)).argmax(axis=1)
    right = sum(str(digit) == path.name[0] for digit, path in zip(read, IMAGES, strict=True))
    assert right >= 18


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_training_gives_the_same_bytes_again() -> None:
    pixels, digits = train.read()
    inputs = train.as_input(pixels[:300])
    first, second = (train.export(train.train(inputs, digits[:300], rounds=5)) for _ in range(2))
    assert first == second
