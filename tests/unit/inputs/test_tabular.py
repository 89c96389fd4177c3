"""Input type tabular: named features into the columns of the graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from seaway.errors import InvalidPackage, InvalidRequest
from seaway.inputs.tabular import TabularInput
from seaway.packages import InputSpec, PackageSpec
from seaway.types import Signature, TensorSpec

AGE = {"name": "age", "type": "number"}
CITY = {"name": "city", "type": "category", "categories": ["Bern", "Oslo"]}
ONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 1)),))
COLUMNS = Signature(
    (TensorSpec("age", "INT64", (-1,)), TensorSpec("city", "BYTES", (-1, 1))), (TensorSpec("y", "FP32", (-1, 1)),)
)


def table(*features: dict[str, Any], signature: Signature = ONE, **options: Any) -> TabularInput:
    spec = PackageSpec(input=InputSpec(type="tabular", options={"features": list(features), **options}))
    return TabularInput.open(Path(), spec, signature)


def test_an_object_becomes_a_row_in_the_order_of_the_features() -> None:
    samples = table(AGE, CITY).prepare({"city": "Oslo", "age": 30})

    assert samples.bare
    assert samples.feeds[0]["x"].tolist() == [[30.0, 1.0]]


def test_rows_may_be_lists() -> None:
    assert table(AGE, CITY).prepare([[30, "Bern"], [31, "Oslo"]]).feeds[0]["x"].tolist() == [[30, 0], [31, 1]]
    assert table(AGE, CITY).prepare([30, "Bern"]).bare


def test_each_column_may_have_its_own_tensor() -> None:
    columns = table(AGE | {"tensor": "age"}, CITY | {"tensor": "city"}, signature=COLUMNS)

    feeds = columns.prepare([{"age": 30, "city": "Oslo"}, {"age": 31, "city": "Bern"}]).feeds[0]

    assert feeds["age"].tolist() == [30, 31]
    assert feeds["city"].tolist() == [["Oslo"], ["Bern"]]


def test_a_graph_of_one_sample_runs_row_by_row() -> None:
    single = Signature((TensorSpec("x", "FP32", (1, 2)),), (TensorSpec("y", "FP32", (1, 1)),))

    samples = table(AGE, CITY, signature=single).prepare([[1, "Bern"], [2, "Bern"]])

    assert [feed["x"].shape for feed in samples.feeds] == [(1, 2), (1, 2)]


@pytest.mark.parametrize("sample", [{"city": "Oslo"}, {"age": None, "city": "Oslo"}, [None, "Oslo"]])
def test_missing_values_become_what_the_package_says(sample: Any) -> None:
    assert table(AGE | {"missing": -1}, CITY).prepare(sample).feeds[0]["x"][0, 0] == -1
    assert math.isnan(table(AGE | {"missing": "nan"}, CITY).prepare(sample).feeds[0]["x"][0, 0])
    assert math.isnan(table(AGE | {"missing": math.nan}, CITY).prepare(sample).feeds[0]["x"][0, 0])
    with pytest.raises(InvalidRequest, match="'age' is missing"):
        table(AGE, CITY).prepare(sample)


def test_unknown_categories_become_what_the_package_says() -> None:
    assert table(AGE, CITY | {"unknown": "Bern"}).prepare([1, "Rome"]).feeds[0]["x"].tolist() == [[1, 0]]
    assert table(AGE, CITY | {"missing": "Oslo"}).prepare([1, None]).feeds[0]["x"].tolist() == [[1, 1]]


def test_categories_keep_their_types_apart() -> None:
    mixed = table(AGE, {"name": "c", "type": "category", "categories": [1, True, "1"]})

    assert [mixed.prepare([0, value]).feeds[0]["x"][0, 1] for value in (1, True, "1")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "empty"),
        ({"age": 1, "city": "Rome"}, "'Rome' is not a category of the feature 'city'; there are: "),
        ({"age": 1, "city": ["Oslo"]}, "not a category"),
        ({"age": 1, "city": 1}, "not a category"),
        ({"age": "1", "city": "Oslo"}, "'age' must be a number"),
        ({"age": True, "city": "Oslo"}, "'age' must be a number"),
        ({"age": 1e39, "city": "Oslo"}, "'age' is out of FP32's range"),
        ({"age": 10**400, "city": "Oslo"}, "range"),
        ({"age": 1, "city": "Oslo", "hat": 1}, "no feature 'hat'"),
        ({"age": 1, "city": "Oslo", "x" * 500: 1}, r"xxx'; there are"),
        ({}, "missing"),
        ([1, "Oslo", 3], "has 3 values; there are 2"),
        ([[1, "Oslo"], [1]], r"inputs\[1\] has 1 values"),
        ([{"age": 1, "city": "Oslo"}, 7], r"inputs\[1\] must be an object"),
        ([[1, 10**5000]], "not a huge number|not a category"),
        ("age", "must be an object of features or a list of them, not 'age'; the features are: 'age', 'city'"),
        (None, "must be an object"),
    ],
)
def test_a_wrong_sample_is_refused_naming_the_feature(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        table(AGE, CITY).prepare(inputs)
    assert len(str(caught.value)) < 300


def test_fractions_are_refused_where_the_graph_takes_integers() -> None:
    columns = table(AGE | {"tensor": "age"}, CITY | {"tensor": "city"}, signature=COLUMNS)

    with pytest.raises(InvalidRequest, match="whole number"):
        columns.prepare([1.5, "Oslo"])
    with pytest.raises(InvalidRequest, match="range"):
        columns.prepare([2**63, "Oslo"])


@pytest.mark.parametrize(
    ("features", "options", "says"),
    [
        ([], {}, r"input\.features"),
        ([AGE], {}, "1 features go into 'x', which takes 2"),
        ([AGE, CITY, {"name": "z"}], {}, "3 features"),
        ([AGE, AGE], {}, r"features\[1\]\.name"),
        ([AGE, {"name": "c", "type": "category"}], {}, r"features\[1\]\.categories"),
        ([AGE, CITY | {"categories": ["a", "a"]}], {}, "twice"),
        ([AGE, CITY | {"unknown": "Rome"}], {}, r"features\[1\]\.unknown"),
        ([AGE, CITY | {"missing": "Rome"}], {}, r"features\[1\]\.missing"),
        ([AGE | {"missing": "none"}, CITY], {}, r"features\[0\]\.missing"),
        ([AGE | {"categories": ["a"]}, CITY], {}, r"features\[0\]\.type"),
        ([AGE | {"tensor": "z"}, CITY], {}, "no input 'z'"),
        ([AGE, CITY], {"tensor": "z"}, r"input\.tensor: the graph has no input 'z'; it has: 'x'"),
        ([AGE, CITY | {"kind": 1}], {}, r"'input\.features\[1\]\.kind'"),
        ([AGE, {"type": "number"}], {}, r"'input\.features\[1\]\.name' is required"),
        ([AGE | {"type": "date"}, CITY], {}, r"'input\.features\[0\]\.type'"),
        ([AGE, CITY], {"columns": 2}, r"'input\.columns'"),
    ],
)
def test_a_mistake_in_the_package_is_refused_with_its_key(
    features: list[dict[str, Any]], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidPackage, match=says):
        table(*features, **options)


def test_every_graph_input_needs_a_feature() -> None:
    with pytest.raises(InvalidPackage, match="tensor: city"):
        table(AGE | {"tensor": "age"}, signature=COLUMNS)


def test_nan_needs_a_tensor_of_floats() -> None:
    with pytest.raises(InvalidPackage, match="NaN"):
        table(AGE | {"tensor": "age", "missing": "nan"}, CITY | {"tensor": "city"}, signature=COLUMNS)


def test_numbers_do_not_go_into_strings() -> None:
    with pytest.raises(InvalidPackage, match="BYTES, not numbers"):
        table(AGE | {"tensor": "city"}, CITY | {"tensor": "age"}, signature=COLUMNS)


@pytest.mark.parametrize(
    ("categories", "sent", "told"),
    [
        (["Bern", "Oslo"], "Olso", "; did you mean 'Oslo'?"),
        (["Bern", "Oslo"], "XXX", "; there are: 'Bern', 'Oslo'."),
        ([1, True, "1"], 7, "; there are: 1, true, '1'."),
        ([f"c{n:03}" for n in range(50)], "XXX", "'c008', 'c009', ..."),
    ],
)
def test_a_category_that_is_none_is_told_which_there_are(categories: list[Any], sent: Any, told: str) -> None:
    city = {"name": "city", "type": "category", "categories": categories}

    with pytest.raises(InvalidRequest) as caught:
        table(AGE, city).prepare([1, sent])

    assert told in str(caught.value)
