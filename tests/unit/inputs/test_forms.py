"""Forms against `prepare`: whatever a form reads, `prepare` reads alike; what `prepare` refuses, no form reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seaway.errors import InvalidRequest
from seaway.inputs import open_input
from seaway.inputs.base import InputType, Samples
from seaway.packages import PackageSpec
from seaway.packages.spec import InputSpec
from seaway.types import Signature, TensorSpec
from seaway.wire.predict import PlainBodies, decode_predict

FEATURES = [
    {"name": "age"},
    {"name": "home", "type": "category", "categories": ["Bern", "Oslo", "Zürich"], "unknown": "Oslo"},
    {"name": "kind", "type": "category", "categories": ["a", "b"], "missing": "b"},
    {"name": "wind", "missing": "nan"},
    {"name": "rain", "missing": 2.5},
]


class Reader:
    """A body read by a form, and by the long way."""

    def __init__(self, kind: str, inputs: list[TensorSpec], **options: Any) -> None:
        outputs = (TensorSpec("y", "FP32", (-1, 1)),)
        self.limit = 4
        spec = PackageSpec(input=InputSpec(type=kind, options=options))
        self.input: InputType = open_input(Path(), spec, Signature(tuple(inputs), outputs))
        self._bodies = PlainBodies({form.opening: form.kind for form in self.input.forms()})
        self._reads = {form.opening: form.read for form in self.input.forms()}

    def fast(self, body: bytes) -> Samples | None:
        plain = self._bodies.decode(body)
        return None if plain is None else self._reads[plain[0]](plain[1], plain[3])

    def slow(self, body: bytes) -> Samples | None:
        try:
            return self.input.prepare(decode_predict(body).inputs)
        except InvalidRequest:
            return None

    def check(self, body: bytes) -> bool:
        """True when the form read it."""
        fast = self.fast(body)
        if fast is None:
            return False
        slow = self.slow(body)
        assert slow is not None
        assert (fast.rows, fast.bare, fast.stacked, len(fast.feeds)) == (
            slow.rows, slow.bare, slow.stacked, len(slow.feeds),
        )  # fmt: skip
        for mine, its in zip(fast.feeds, slow.feeds, strict=True):
            assert list(mine) == list(its)
            for name in mine:
                assert (mine[name].dtype, mine[name].shape) == (its[name].dtype, its[name].shape)
                assert np.array_equal(mine[name] + 0, its[name] + 0, equal_nan=mine[name].dtype.kind == "f")
                assert mine[name].flags.aligned
                assert mine[name].flags.c_contiguous
        return True


def tabular(datatype: str, features: Any = FEATURES) -> Reader:
    return Reader("tabular", [TensorSpec("x", datatype, (-1, len(features)))], features=features)


FLIGHTS = {datatype: tabular(datatype) for datatype in ("FP16", "FP32", "FP64")}
WHOLE = [{"name": "a"}, {"name": "b", "missing": 7}]
COUNTS = {datatype: tabular(datatype, WHOLE) for datatype in ("UINT8", "INT16", "INT32", "INT64", "UINT64")}

NUMBER = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-9, 9)
    | st.integers(-(2**64), 2**64)
    | st.integers(-300, 300)
    | st.sampled_from([65504, 65519.9, 65520, 3.4028234663852886e38, 3.4028235677973366e38, 3.5e38, 1e308, -0.0, 1e-50])
)
VALUE = NUMBER | st.none() | st.booleans() | st.sampled_from(["Bern", "Oslo", "a", "b", "x", "\0", "é:", ""])
PLAIN = st.fixed_dictionaries(
    {"age": st.floats(-9, 9), "home": st.sampled_from(["Bern", "Rome"])},
    optional={
        "kind": st.sampled_from(["a", "b", None]),
        "wind": st.floats(-9, 9) | st.none(),
        "rain": st.integers(0, 9),
    },
)
NAMES = st.sampled_from([feature["name"] for feature in FEATURES] + ["other"])
ANY_ROW = st.dictionaries(NAMES, VALUE, max_size=6) | st.lists(VALUE, min_size=4, max_size=6) | PLAIN
INPUTS = ANY_ROW | st.lists(ANY_ROW, max_size=3) | PLAIN.map(lambda row: [row, row])


@settings(max_examples=400)
@given(INPUTS, st.sampled_from(sorted(FLIGHTS)), st.booleans())
@example([5, "Bern", "a", 1, 2], "FP32", True)
def test_rows_of_features_are_read_alike(inputs: Any, datatype: str, ascii_only: bool) -> None:
    FLIGHTS[datatype].check(json.dumps({"inputs": inputs}, ensure_ascii=ascii_only).encode())


WHOLE_VALUE = st.integers(-3, 300) | st.integers(-(2**64), 2**64) | st.sampled_from([1.0, 1.5, None, True, "1"])
WHOLE_ROW = st.lists(WHOLE_VALUE, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), WHOLE_VALUE)


@settings(max_examples=300)
@given(WHOLE_ROW | st.lists(WHOLE_ROW, max_size=3), st.sampled_from(sorted(COUNTS)))
def test_whole_numbers_are_read_alike(inputs: Any, datatype: str) -> None:
    COUNTS[datatype].check(json.dumps({"inputs": inputs}).encode())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "\\u0061"]), st.integers(0, 9)), max_size=4))
def test_a_key_sent_twice_is_read_by_no_form(pairs: list[tuple[str, int]]) -> None:
    row = ",".join(f'"{key}":{value}' for key, value in pairs)
    COUNTS["INT32"].check(f'{{"inputs":{{{row}}}}}'.encode())
    COUNTS["INT32"].check(f'{{"inputs":[{{{row}}},{{"a":1}}]}}'.encode())


@pytest.mark.parametrize(
    "inputs",
    [
        '{"age": 3, "home": "Rome", "wind": 1, "rain": 0, "kind": "a"}',
        '{"rain": null, "home": "Rome", "age": 1e2}',
        '[ {"age":3,"home":"Bern"} ]',
        '[3, "Bern", null, null, 1]',
        '[[3, "Bern", "a", 2, 1], [4, "Zürich", "b", null, null]]',
    ],
)
def test_what_is_usual_is_read_by_a_form(inputs: str) -> None:
    assert FLIGHTS["FP32"].check(f' {{ "inputs" : {inputs} }}'.encode())
    assert FLIGHTS["FP32"].check(f'{{"inputs":{inputs},"model":"m"}}'.encode())


def test_a_feature_with_a_colon_in_its_name_is_left_to_prepare() -> None:
    odd = tabular("FP32", [{"name": "a:b"}])
    assert odd.fast(b'{"inputs": {"a:b": 1}}') is None
    assert odd.check(b'{"inputs": [1]}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [1, "Bern", "a", 1, 1], "inputs": [1, "Bern", "a", 1, 1]}',
        b'{"inputs": [1, "Bern", "a", 1, 1], "instances": 1}',
        b'{"inputs": [1, "Be\\u0000rn", "a", 1, 1]}',
        b'{"inputs": [1, "Bern", "a", 1, NaN]}',
        b'{"inputs": [1, "Bern", "a", 1, 1]} x',
        b'{"inputs": [[1, "Bern", "a", 1, 1], {"age": 1}]}',
        b'{"inputs": []}',
        b'{"inputs": [[]]}',
        b'{"inputs": {}}',
        b'{"inputs": ',
    ],
)
def test_what_is_wrong_is_read_by_no_form(body: bytes) -> None:
    assert FLIGHTS["FP32"].fast(body) is None


def test_a_list_over_the_limit_is_left_to_prepare() -> None:
    row = [1, "Bern", "a", 1, 1]
    assert FLIGHTS["FP32"].check(json.dumps({"inputs": [row] * 2000}).encode())
    assert FLIGHTS["FP32"].fast(json.dumps({"inputs": [row] * 65_537}).encode()) is None


TENSORS = {
    (datatype, shape): Reader("tensor", [TensorSpec("x", datatype, shape)])
    for datatype in ("FP32", "FP16", "FP64", "INT64", "UINT8", "BOOL")
    for shape in ((-1, 2), (-1,), (2, 2), (-1, -1, 2), ())
}
PAIR = Reader("tensor", [TensorSpec("a:b", "FP32", (-1, 2)), TensorSpec("b", "INT32", (-1, -1))])
PAIRED = Reader("tensor", [TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT32", (-1, -1))])
LEAF = NUMBER | st.booleans() | st.none() | st.just("1")
NESTED = st.recursive(
    st.lists(st.floats(-9, 9) | LEAF, max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
EVEN = st.integers(0, 3).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 1) | st.floats(-9, 9), min_size=2, max_size=2), min_size=n, max_size=n)
)


@settings(max_examples=400)
@given(NESTED | EVEN | EVEN.map(lambda rows: [rows]) | LEAF, st.sampled_from(sorted(TENSORS)))
def test_nested_lists_are_read_alike(inputs: Any, key: Any) -> None:
    TENSORS[key].check(json.dumps({"inputs": inputs}).encode())


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["a", "b", "a:b", "c"]), NESTED | EVEN | st.just([1, 2])))
def test_several_tensors_are_read_alike(inputs: Any) -> None:
    for reader in (PAIR, PAIRED):
        reader.check(json.dumps({"inputs": inputs}).encode())


@pytest.mark.parametrize("inputs", [[1, 2], [[1, 2]], [[1, 2], [3, 4.5]]])
def test_usual_tensors_are_read_by_a_form(inputs: Any) -> None:
    assert TENSORS["FP32", (-1, 2)].check(json.dumps({"inputs": inputs}).encode())


def test_usual_named_tensors_are_read_by_a_form() -> None:
    assert PAIRED.check(b'{"inputs": {"a": [1, 2.5], "b": [7]}}')
