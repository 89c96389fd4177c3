"""Whether padding changes answers: a mask in the signature is no promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from seaway.errors import InvalidRequest, PayloadTooLarge
from seaway.inputs.base import Padding, Samples
from seaway.serving.padding_probe import equal_answers, padding_matters
from seaway.types import Signature, TensorSpec

IDS, MASK = "input_ids", "attention_mask"
Model = Callable[[Any, Any], Any]


class Session:
    device, dtype = "cpu", "fp32"
    signature = Signature((), (TensorSpec("y", "FP32", (-1, -1)),))

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str], handle: object) -> list[Any]:
        assert list(outputs) == ["y"]
        return [self._model(feeds[IDS].astype(np.float32), feeds[MASK].astype(np.float32))]


class Texts:
    """Makes so many tokens of any text."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def prepare(self, inputs: Any) -> Samples:
        ids = np.arange(5, 5 + self._tokens)[None]
        return Samples(({IDS: ids, MASK: np.ones_like(ids)},), 1, False)


def why(model: Model, tokens: int = 13, longest: int = 64) -> str:
    padding = Padding({IDS: 0, MASK: 0}, MASK, longest)
    return padding_matters(Session(model), padding, Texts(tokens))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [
        lambda ids, mask: (ids * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True),
        lambda ids, mask: ids * 2,  # of each token; the padding's are cut off
        lambda ids, mask: (ids * mask)[:, :, None] * (ids * mask)[:, None, :],
        lambda ids, mask: ids[:, :1],
    ],
    ids=range(4),
)
def test_a_model_that_heeds_the_mask_may_be_padded(model: Model) -> None:
    assert why(model) == ""


@pytest.mark.parametrize(
    "model",
    [
        lambda ids, mask: ids.mean(1, keepdims=True),
        lambda ids, mask: ids[:, -1:],
        lambda ids, mask: ids + np.pad(ids, ((0, 0), (0, 1)))[:, 1:] + mask.sum(1, keepdims=True) * 0 + ids.shape[1],
        lambda ids, mask: ids[:, : ids.shape[1] // 2].sum(1, keepdims=True),
    ],
    ids=["mean", "last", "neighbours", "half"],
)
def test_a_model_that_looks_at_the_padding_is_told_from_it(model: Model) -> None:
    assert "'y'" in why(model)


def test_a_model_that_refuses_texts_of_two_lengths_runs_them_apart() -> None:
    def single(ids: Any, mask: Any) -> Any:
        if len(ids) > 1:
            raise InvalidRequest("One at a time.")
        return ids

    assert why(single) == "One at a time."


def test_outputs_without_rows_run_apart_and_what_allows_only_little_is_tried_with_little() -> None:
    assert "row for each text" in why(lambda ids, mask: np.array(5.0))

    class Strict(Texts):
        def prepare(self, inputs: Any) -> Samples:
            if len(inputs[0]) > self._tokens:
                raise PayloadTooLarge("too long")
            return super().prepare(inputs)

    session, padding = Session(lambda ids, mask: ids.mean(1, keepdims=True)), Padding({IDS: 0, MASK: 0}, MASK, 64)
    assert "'y'" in padding_matters(session, padding, Strict(3))  # type: ignore[arg-type]
    assert "no text" in padding_matters(session, padding, Strict(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "device"), [("bf16", "cpu"), ("fp32", "cuda:0")])
def test_large_numbers_don_t_hide_what_is_wrong_with_small_ones(dtype: str, device: str) -> None:
    session = Session(lambda ids, mask: ids)
    session.dtype, session.device = dtype, device
    usual = np.r_[20.0, np.full(50, 0.5)]
    assert equal_answers(usual, usual * 1.004, session)  # type: ignore[arg-type]
    assert not equal_answers(usual, np.r_[20.0, np.full(50, 1.5)], session)  # type: ignore[arg-type]


def test_without_a_mask_texts_run_apart_and_with_a_single_token_there_is_nothing_to_compare() -> None:
    session = Session(lambda ids, mask: ids)
    assert "no mask" in padding_matters(session, None, Texts(5))  # type: ignore[arg-type]
    assert why(lambda ids, mask: ids.mean(1, keepdims=True), tokens=1) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, 1000.0], [1.0005, 1000.5], True),
        ([0.1, 1000.0], [0.2, 1000.0], False),
        ([0.0, 1.0], [0.00005, 1.0], True),
        ([np.nan, np.inf], [np.nan, np.inf], True),
        ([np.nan, 1.0], [0.0, 1.0], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_answers_are_equal_number_by_number(one: list[float], other: list[float], same: bool) -> None:
    session = Session(lambda ids, mask: ids)
    assert equal_answers(np.array(one), np.array(other), session) is same  # type: ignore[arg-type]
