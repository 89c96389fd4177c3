"""Input type tensor: the graph's own tensors as nested lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidPackage, InvalidRequest
from seaway.inputs.arrays import to_array
from seaway.inputs.tensor import TensorInput
from seaway.packages import InputSpec, PackageSpec
from seaway.types import Signature, TensorSpec


def tensors(*specs: tuple[str, str, tuple[int, ...]], output: tuple[int, ...] = (-1, 1), **options: Any) -> TensorInput:
    signature = Signature(tuple(TensorSpec(*spec) for spec in specs), (TensorSpec("out", "FP32", output),))
    return TensorInput.open(Path(), PackageSpec(input=InputSpec(**options)), signature)


@pytest.fixture
def triples() -> TensorInput:
    """Takes any number of samples of three numbers."""
    return tensors(("x", "FP32", (-1, 3)))


def test_one_sample_lacks_the_first_axis(triples: TensorInput) -> None:
    samples = triples.prepare([1, 2, 3.5])

    assert (samples.rows, samples.bare) == (1, True)
    np.testing.assert_array_equal(samples.feeds[0]["x"], np.array([[1, 2, 3.5]], np.float32))


def test_a_list_of_samples_is_stacked(triples: TensorInput) -> None:
    samples = triples.prepare([[1, 2, 3], [4, 5, 6]])

    assert (samples.rows, samples.bare, len(samples.feeds)) == (2, False, 1)
    assert samples.feeds[0]["x"].shape == (2, 3)
    assert samples.feeds[0]["x"].dtype == np.float32


def test_a_single_input_may_be_named(triples: TensorInput) -> None:
    assert triples.prepare({"x": [1, 2, 3]}).bare
    assert triples.prepare([{"x": [1, 2, 3]}, {"x": [4, 5, 6]}]).rows == 2


def test_a_sample_may_be_one_number() -> None:
    scalars = tensors(("x", "FP32", (-1,)))

    assert scalars.prepare(7).feeds[0]["x"].tolist() == [7]
    assert scalars.prepare([7, 8]).feeds[0]["x"].tolist() == [7, 8]


def test_several_inputs_are_an_object() -> None:
    pair = tensors(("a", "FP32", (-1, 2)), ("b", "INT64", (-1,)))

    samples = pair.prepare([{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}])

    assert samples.feeds[0]["a"].tolist() == [[1, 2], [4, 5]]
    assert samples.feeds[0]["b"].tolist() == [3, 6]


def test_strings_stay_strings() -> None:
    words = tensors(("x", "BYTES", (-1, 2)))

    assert words.prepare([["a", "é"], ["", "long" * 1000]]).feeds[0]["x"][0].tolist() == ["a", "é"]


def test_without_a_batch_axis_a_sample_is_the_whole_tensor() -> None:
    fixed = tensors(("x", "FP32", (2, 2)), output=(2,))

    assert fixed.prepare([[1, 2], [3, 4]]).bare
    many = fixed.prepare([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert (many.rows, len(many.feeds), many.stacked) == (2, 2, False)
    assert many.feeds[1]["x"].tolist() == [[5, 6], [7, 8]]


def test_a_shape_that_the_graph_does_not_declare_is_taken_as_sent() -> None:
    anything = tensors(("x", "FP32", ()), output=())

    assert anything.prepare(1).feeds[0]["x"].shape == ()
    assert anything.prepare([[1, 2]]).feeds[0]["x"].shape == (1, 2)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "empty"),
        ([1, 2], r"shape \[2\].*takes \[3\]"),
        ([[1, 2, 3], [1, 2]], "different lengths"),
        ([[1, 2, 3, 4]], r"shape \[1, 4\]"),
        ([[]], r"shape \[1, 0\]"),
        ([1, 2, "3"], r"inputs\[2\]: expected a number, got a string"),
        ([1, 2, None], r"inputs\[2\]: expected a number, got null"),
        ([1, 2, True], r"inputs\[2\]: expected a number, got a boolean"),
        ([1, 2, 1e39], "element 2 is not a finite FP32"),
        ([1, 2, 10**400], "number"),
        ([[[1, 2, 3]]], "expected a number, got a list"),
        ("text", "expected a list, got a string"),
        (None, "expected a list, got null"),
        ({"y": [1, 2, 3]}, "no input 'y'"),
        ({}, "'x' is missing"),
        ({"x": [1, 2]}, r"inputs\.x has shape \[2\]"),
        ([{"x": [1, 2, 3]}, {}], r"inputs\[1\]: the input 'x' is missing"),
    ],
)
def test_a_wrong_input_is_refused_saying_where(triples: TensorInput, inputs: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        triples.prepare(inputs)


def test_a_list_for_several_inputs_is_refused_naming_them() -> None:
    pair = tensors(("a", "FP32", (-1, 2)), ("b", "FP32", (-1, 2)))

    with pytest.raises(InvalidRequest, match="'a', 'b'"):
        pair.prepare([1, 2])


def test_samples_of_different_shapes_are_not_padded_silently() -> None:
    ragged = tensors(("x", "FP32", (-1, -1)))

    with pytest.raises(InvalidRequest, match="different"):
        ragged.prepare([{"x": [1]}, {"x": [1, 2]}])


def test_null_is_nan_where_the_model_takes_it() -> None:
    lenient = tensors(("x", "FP32", (-1, 2)), allow_nonfinite=True)

    assert np.isnan(lenient.prepare([None, 1]).feeds[0]["x"][0, 0])


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (300, "UINT8"),
        (-1, "UINT64"),
        (2**63, "INT64"),
        (1.5, "INT32"),
        (1, "BOOL"),
        ("1", "INT8"),
        (70000.0, "FP16"),
        (1, "BYTES"),
    ],
)
def test_what_a_datatype_cannot_hold_is_refused(value: Any, datatype: str) -> None:
    with pytest.raises(InvalidRequest):
        to_array([value], datatype, 1, where="inputs")


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
@given(value=st.integers(-(2**70), 2**70))
def test_integers_arrive_exactly_or_are_refused(datatype: str, value: int) -> None:
    try:
        array = to_array([value], datatype, 1, where="inputs")
    except InvalidRequest:
        return
    assert array.tolist() == [value]


def test_too_many_dimensions_are_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]

    with pytest.raises(InvalidRequest, match="dimensions"):
        tensors(("x", "FP32", ()), output=()).prepare(deep)


def test_it_has_no_options() -> None:
    with pytest.raises(InvalidPackage, match=r"'input\.width'"):
        tensors(("x", "FP32", (-1, 3)), options={"width": 3})


def test_any_size_is_explained_only_where_there_is_one() -> None:
    def refused(*shape: int) -> str:
        signature = Signature((TensorSpec("x", "FP32", (-1, *shape)),), (TensorSpec("y", "FP32", (-1,)),))
        with pytest.raises(InvalidRequest) as caught:
            TensorInput.open(Path(), PackageSpec(), signature).prepare([[1.0], [2.0]] if len(shape) > 1 else [1.0, 2.0])
        return str(caught.value)

    assert refused(3) == "inputs has shape [2]; 'x' takes [3]."
    assert refused(-1, 3) == "inputs has shape [2, 1]; 'x' takes [-1, 3] (-1 is any size)."
