"""`/predict` bodies and answers."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest
from seaway.wire import decode_predict, encode_predict, peek_model
from seaway.wire.strict import KEYS_CHECKED_BYTES

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_inputs_and_model_are_read_and_no_parameters_are_none() -> None:
    decoded = decode_predict(b'{"inputs": [1], "parameters": {}, "model": "m"}')
    assert (decoded.inputs, decoded.model) == ([1], "m")


@given(JSON)
def test_inputs_come_out_as_they_went_in(inputs: Any) -> None:
    body = msgspec.json.encode({"inputs": inputs})
    assert decode_predict(memoryview(body)).inputs == inputs


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b"{}", '"inputs" is missing'),
        (b'{"inputs": 1, "instance": 2}', "'instance' is not known"),
        (b'{"inputs": 1, "parameters": 2}', "parameters"),
        (b'{"inputs": 1, "parameters": {"timeout": 1}}', "parameters.timeout is not known here: /predict takes none"),
        (b'{"inputs": 1, "model": 2}', "model"),
        (b'{"inputs": [1, NaN]}', "not valid JSON: JSON has no NaN; send numbers, or null"),
        (b'{"inputs": -Infinity}', "not valid JSON: JSON has no Infinity; send numbers, or null"),
        (b'{"inputs": 1e400}', "out of range"),
        (b'{"inputs": ' + b"9" * 10_000 + b"}", "out of range"),
        (b'{"inputs": "\xff"}', "not valid JSON"),
        (b'{"inputs": "\\ud800"}', "not valid JSON: a string has half a surrogate pair"),
        (b'{"inputs": "\\udc00 and more"}', "not valid JSON: a string has half a surrogate pair"),
        (b'{"inputs": "\\\\ud800', "not valid JSON: Input data was truncated"),
        (b'{"inputs": "a\\u0000b"}', "NUL"),
        (b'{"inputs": "\\\\\\u0000"}', "NUL"),
        (b'{"inputs": 1, "inputs": 2}', "'inputs' is there twice"),
        (b'{"inputs": [{"a": 1}, {"a": 1, "b": 2, "a": 3}]}', "'a' is there twice"),
        (b'{"inputs": {"a": "x:y", "\\u0061": 1}}', "'a' is there twice"),
        (b'{"inputs": ' + b"[" * 250_000, "nested too deeply"),
        (b'{"inputs": ' + b'{"a":' * 250_000, "nested too deeply"),
    ],
)
def test_a_wrong_predict_body_is_refused_and_named(body: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        decode_predict(body)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert decode_predict(b'{"inputs": "\\\\u0000"}').inputs == "\\u0000"


def test_colons_within_strings_are_no_keys() -> None:
    assert decode_predict(b'{"inputs": {"a": "b: c", "d": ["::"]}}').inputs == {"a": "b: c", "d": ["::"]}


@given(st.lists(st.tuples(st.sampled_from("ab:"), JSON), max_size=3))
def test_a_key_is_refused_exactly_when_it_comes_twice(pairs: list[tuple[str, Any]]) -> None:
    items = b",".join(b'"%b":%b' % (key.encode(), msgspec.json.encode(value)) for key, value in pairs)
    body = b'{"inputs":{%b}}' % items
    if len({key for key, _ in pairs}) == len(pairs):
        assert decode_predict(body).inputs == dict(pairs)
        return
    with pytest.raises(InvalidRequest, match="twice"):
        decode_predict(body)


def test_in_a_large_body_the_last_of_two_keys_counts() -> None:
    padding = b" " * KEYS_CHECKED_BYTES
    assert decode_predict(b'{"inputs": 1, "inputs": 2}' + padding).inputs == 2


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda junk: b'{"inputs":' + junk + b"}"))
def test_any_bytes_are_a_predict_body_or_a_clear_error(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        decode_predict(body)
    with contextlib.suppress(InvalidRequest):
        peek_model(body + b'"model"')


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b"", None),
        (b'{"inputs": 1}', None),
        (b'{"inputs": 1, "model": "m"}', "m"),
        (b'{"inputs": "\\"model\\""}', None),
    ],
)
def test_the_model_is_found_in_the_body_only_where_it_is_named(body: bytes, model: str | None) -> None:
    assert peek_model(body) == model
    assert peek_model(memoryview(body)) == model


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'["model"]', "The body: expected an object, got a list"),
        (b'{"model": 4}', "model: expected a string, got an integer"),
        (b'{"model": "m"', "not valid JSON"),
        (b'{"model": "m", "x": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_whose_model_cannot_be_read_is_refused(body: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        peek_model(body)


@pytest.mark.parametrize(
    ("outputs", "written"),
    [
        (np.array([[1.5, 2], [3, 4]], np.float32), [[1.5, 2.0], [3.0, 4.0]]),
        (np.array([1.0, np.nan, np.inf], np.float16), [1.0, None, None]),
        ([float("inf"), np.float64(2), np.float32("nan"), np.int8(3), np.bool_(True)], [None, 2.0, None, 3, True]),
        ({"label": np.str_("a"), "scores": (np.array(0.5), 1)}, {"label": "a", "scores": [0.5, 1]}),
        (np.array([[b"\xc3\xa9", "b"]], dtype=object), [["é", "b"]]),
        (np.array([b"\xff"], dtype=object), ["\ufffd"]),
        (np.zeros((0, 2)), []),
    ],
)
def test_arrays_and_numbers_leave_as_json_that_everybody_reads(outputs: Any, written: Any) -> None:
    answer = msgspec.json.decode(encode_predict("m", 1, "id", outputs))
    assert answer == {"model": "m", "version": 1, "prediction_id": "id", "outputs": written}


def test_a_value_that_json_cannot_say_is_an_error_of_ours() -> None:
    with pytest.raises(NotImplementedError, match="object"):
        encode_predict("m", 1, "id", object())
