"""Which models may be served in batches: those whose samples don't see one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from seaway.errors import InvalidRequest, WarmUpFailed
from seaway.inputs.base import Padding, Samples
from seaway.serving.batch_probe import check_rows_apart, find_sequences
from seaway.serving.predictor import Prepared
from seaway.types import Signature, TensorSpec

IDS, MASK = "input_ids", "attention_mask"
PADDING = Padding({IDS: 0, MASK: 0}, MASK, 512)
Model = Callable[[dict[str, Any]], Any]


class Session:
    """A model of one output."""

    device, dtype = "cpu", "fp32"
    signature = Signature((), (TensorSpec("y", "FP32", (-1, -1)),))

    def __init__(self, model: Model) -> None:
        self._model = model

    def check(self, feeds: Any) -> None:
        pass

    def stage(self, feeds: Any) -> Any:
        return feeds

    def launch(self, staged: Any, names: Sequence[str]) -> Any:
        assert list(names) == ["y"]
        return self._model(staged)

    def collect(self, launched: Any) -> list[Any]:
        return [launched]


def _softmax_of_columns(values: Any) -> Any:
    powers = np.exp(values - values.max(0))
    return powers / powers.sum(0)


def numbers(*values: float) -> Prepared:
    return Prepared(Samples(({"x": np.array([values], np.float32)},), 1, False), ("y",), None, "")


def text(*ids: int) -> Prepared:
    feeds = {IDS: np.array([ids]), MASK: np.ones((1, len(ids)), np.int64)}
    return Prepared(Samples((feeds,), 1, False), ("y",), None, "")


@pytest.mark.parametrize(
    "model",
    [
        lambda feeds: feeds["x"] * 2,
        lambda feeds: feeds["x"] / feeds["x"].sum(1, keepdims=True),
        lambda feeds: np.full_like(feeds["x"], np.nan),
        lambda feeds: feeds["x"] * (1 + 1e-4 * len(feeds["x"])),  # another order of the same sums
        lambda feeds: feeds["x"] > 2,
        lambda feeds: feeds["x"] * 0,
    ],
    ids=range(6),
)
def test_models_whose_samples_are_apart_may_be_batched(model: Model) -> None:
    check_rows_apart(Session(model), numbers(1, 2, 3), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda feeds: feeds["x"] - feeds["x"].mean(0), "another than alone"),
        (lambda feeds: feeds["x"] @ feeds["x"].T, "has shape"),
        (lambda feeds: feeds["x"][::-1] * 1.0, "another than alone"),
        (lambda feeds: feeds["x"] + feeds["x"].max(), "another than alone"),
        (lambda feeds: feeds["x"][:1], "has shape"),
        (lambda feeds: np.where(len(feeds["x"]) > 1, np.nan, feeds["x"]), "another than alone"),
        (lambda feeds: feeds["x"] + 0.005 * feeds["x"].mean(0).sum(), "another than alone"),
        (lambda feeds: feeds["x"] / max(1.0, feeds["x"].max()), "another than alone"),
        (
            lambda feeds: np.concatenate([feeds["x"] * 0 + 1000, _softmax_of_columns(feeds["x"])], 1),
            "another than alone",
        ),
    ],
    ids=range(9),
)
def test_models_that_mix_samples_are_refused_with_the_lane_to_use(model: Model, problem: str) -> None:
    with pytest.raises(WarmUpFailed, match=f"{problem}.*lane cpu"):
        check_rows_apart(Session(model), numbers(1, 2, 3), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_no_value_of_the_sample_hides_that_samples_are_mixed(value: float) -> None:
    with pytest.raises(WarmUpFailed, match="another than alone"):
        check_rows_apart(Session(lambda feeds: feeds["x"] - feeds["x"].mean(0)), numbers(value, value), None)  # type: ignore[arg-type]


def test_whole_numbers_that_are_all_zero_hide_nothing_either() -> None:
    sample = Prepared(Samples(({"x": np.zeros((1, 3), np.int64)},), 1, False), ("y",), None, "")
    with pytest.raises(WarmUpFailed, match="another than alone"):
        check_rows_apart(Session(lambda feeds: feeds["x"] - feeds["x"].mean(0)), sample, None)  # type: ignore[arg-type]


def test_a_model_that_answers_only_one_sample_can_t_be_compared() -> None:
    def picky(feeds: dict[str, Any]) -> Any:
        if (feeds["x"] != 1).any():
            raise InvalidRequest("only ones")
        return feeds["x"]

    with pytest.raises(WarmUpFailed, match=r"no second one is known.*lane cpu"):
        check_rows_apart(Session(picky), numbers(1, 1), None)  # type: ignore[arg-type]


def test_a_model_that_takes_no_batches_is_refused_with_its_reason() -> None:
    def single(feeds: dict[str, Any]) -> Any:
        if len(feeds["x"]) > 1:
            raise InvalidRequest("Cannot handle batch sizes > 1.")
        return feeds["x"]

    with pytest.raises(WarmUpFailed, match=r"Cannot handle batch sizes > 1.*lane cpu"):
        check_rows_apart(Session(single), numbers(1, 2), None)  # type: ignore[arg-type]


def test_token_ids_mixed_across_samples_are_noticed_too() -> None:
    def mixes(feeds: dict[str, Any]) -> Any:
        return (feeds[IDS] - feeds[IDS].mean(0)).astype(np.float32)

    with pytest.raises(WarmUpFailed):
        check_rows_apart(Session(mixes), text(7, 7, 7), PADDING)  # type: ignore[arg-type]


def test_a_made_up_sample_that_the_model_refuses_is_no_reason_to_refuse_the_model() -> None:
    def picky(feeds: dict[str, Any]) -> Any:
        if (feeds["x"] < 1).any():
            raise InvalidRequest("too small")
        return feeds["x"]

    check_rows_apart(Session(picky), numbers(1, 2), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "axes"),
    [
        (lambda ids: ids[:, :, None] * np.ones(4), {"y": (1,)}),
        (lambda ids: ids[:, :, None] * ids[:, None, :], {"y": (1, 2)}),
        (lambda ids: ids[:, None, :] * np.ones((3, 1)), {"y": (2,)}),
        (lambda ids: ids.sum(1, keepdims=True), {}),
        (lambda ids: np.concatenate([ids, ids], 1), None),
        (lambda ids: ids[:, :-1], None),
        (lambda ids: ids[:, : int(ids.sum()) % 3 + 1], None),
    ],
    ids=range(7),
)
def test_the_axes_that_are_as_long_as_the_texts_are_found(model: Callable[[Any], Any], axes: Any) -> None:
    session = Session(lambda feeds: model(feeds[IDS]))
    assert find_sequences(session, text(5, 1, 2), PADDING) == axes  # type: ignore[arg-type]


@pytest.mark.parametrize("longest", [2, 5, 6, 7, 11])
def test_axes_are_found_of_texts_that_may_only_be_short(longest: int) -> None:
    padding = Padding({IDS: 0, MASK: 0}, MASK, longest)
    session = Session(lambda feeds: feeds[IDS][:, :, None] * np.ones(4))
    assert find_sequences(session, text(5, 1), padding) == {"y": (1,)}  # type: ignore[arg-type]


def test_models_without_texts_have_no_such_axes() -> None:
    assert find_sequences(Session(lambda feeds: feeds["x"]), numbers(1), None) == {}  # type: ignore[arg-type]
