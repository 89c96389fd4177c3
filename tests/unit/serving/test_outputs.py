"""The output stage: what is had in one pass is what is had output by output."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seaway.inputs.base import Samples
from seaway.packages import OutputSpec
from seaway.serving.outputs import OutputStage
from seaway.types import Signature, TensorSpec
from seaway.wire import encode_predict

LABELS = ("red", "green", "blue")
SCORE = st.sampled_from([0.0, 1.0, -1.0, 0.1, float("nan"), float("inf"), -float("inf")])


def stage(datatype: str, *shape: int, **options: Any) -> OutputStage:
    signature = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", datatype, (-1, *shape)),))
    return OutputStage(OutputSpec(**options), signature, masked=False)


def written(outputs: Any) -> Any:
    return json.loads(encode_predict("m", 1, "id", outputs))["outputs"]


@given(st.lists(st.lists(SCORE, min_size=3, max_size=3), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_rows_in_one_pass_are_those_one_by_one(rows: list[list[float]], labelled: bool, softmax: bool) -> None:
    labels = LABELS if labelled else None
    outputs = stage("FP32", 3, labels=labels, softmax=softmax)
    array = np.array(rows, np.float32)
    samples = Samples(({},), len(rows), bare=False)

    each = [outputs._column(Samples(({},), 1, bare=True), [[row[np.newaxis]]], 0)[0] for row in array]

    assert written(outputs.values(samples, [[array]])) == written(each)
    assert written(outputs.values(Samples(({},), 1, bare=True), [[array[:1]]])) == written(each[0])


def test_an_output_of_another_length_than_the_samples_is_one_of_a_bare_sample() -> None:
    numbers = stage("FP32", 3)
    array = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert written(numbers.values(Samples(({},), 1, bare=True), [[array]])) == [[1, 2, 3], [4, 5, 6]]


@given(st.lists(SCORE, min_size=3, max_size=3))
def test_scores_that_are_no_numbers_have_no_best_label(row: list[float]) -> None:
    array = np.array([row], np.float32)
    (answer,) = stage("FP32", 3, labels=LABELS).values(Samples(({},), 1, bare=False), [[array]])
    if np.isnan(array).any():
        assert (answer["label"], answer["score"]) == (None, None)
    else:
        assert answer["score"] == array.max()
        assert answer["scores"][answer["label"]] == array.max()
