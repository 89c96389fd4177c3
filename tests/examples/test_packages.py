"""Every package that is in the repository opens in Seaway and gives its own known answers."""

from __future__ import annotations

from pathlib import Path

import examples.flights.train
import pytest

from seaway.serving.predictor import Predictor

EXAMPLES = Path(examples.flights.train.__file__).parents[1]


@pytest.mark.parametrize(
    "package",
    [
        "flights/package", "flights/package_v2", "digits/package", "digits_torch/package", "vad/package",
    ],
)  # fmt: skip
def test_seaway_gives_the_known_answers(package: str) -> None:
    predictor = Predictor.open(EXAMPLES / package, model="example", version=1, max_body_bytes=1_000_000)
    assert predictor.spec.known_answers
    predictor.warm_up()
