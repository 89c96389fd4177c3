"""examples/digits_torch: torch's own modules give the known answers, and the listed layers are those modules."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.digits_torch import train
from PIL import Image
from safetensors.torch import load_file

PACKAGE = Path(train.__file__).parent / "package"


def trained() -> torch.nn.Module:
    model = train.network()
    model.load_state_dict(load_file(PACKAGE / "model.safetensors"))
    return model.eval()


def test_plain_torch_gives_the_known_answers() -> None:
    model = trained()
    for answer in json.loads((PACKAGE / "known_answers.json").read_text()):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["inputs"]))))
        scores = train.probabilities(model, train.as_input(pixels))[0].tolist()
        assert scores == pytest.approx(list(answer["outputs"]["scores"].values()), abs=answer["tolerance"])


def test_it_reads_hands_it_has_not_seen() -> None:
    pixels, digits = train.read()
    held_out = slice(-train.HELD_OUT, None)
    right = train.probabilities(trained(), train.as_input(pixels[held_out])).argmax(axis=1) == digits[held_out]
    published = json.loads((PACKAGE.parent / "metrics.json").read_text())["accuracy"]
    assert right.mean() == pytest.approx(published, abs=0.005)


def test_the_package_says_what_the_script_writes() -> None:
    assert (PACKAGE / "seaway.yaml").read_text() == train.seaway_yaml()


def test_training_repeats_itself() -> None:
    pixels, digits = train.read()
    pictures, targets = train.as_input(pixels[:200]), torch.from_numpy(digits[:200])
    first, second = (train.train(pictures, targets, rounds=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
