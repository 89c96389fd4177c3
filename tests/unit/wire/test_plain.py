"""Plain `/v2` requests and answers: the same values and bytes as by the long way, or nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.errors import InvalidRequest
from seaway.types import Signature, TensorSpec
from seaway.wire import InferRequest, InferTensor, RequestedOutput, decode_infer, encode_infer
from seaway.wire.numbers import MIN_BYTES
from seaway.wire.plain import InferAnswers, PlainTensors
from seaway.wire.strict import KEYS_CHECKED_BYTES

Y = (TensorSpec("y", "FP32", (-1, 1)),)
KINDS = ("FP32", "FP16", "FP64", "INT64", "UINT8", "INT16", "UINT64", "BOOL")
READERS = {kind: PlainTensors(TensorSpec("x", kind, (-1, 2))) for kind in KINDS}


def check(kind: str, body: bytes) -> bool:
    """True when it was read in one pass; then the long way reads the same."""
    plain = READERS[kind].decode(body)
    if plain is None:
        return False
    request, array = plain
    slow = decode_infer(body, header_length=None)
    [tensor] = slow.inputs
    assert (tensor.name, tensor.datatype) == ("x", kind)
    assert request == msgspec.structs.replace(slow, inputs=())
    assert (array.dtype, array.shape, array.tobytes()) == (
        tensor.array.dtype, tensor.array.shape, tensor.array.tobytes(),
    )  # fmt: skip
    assert array.shape[1:] == (2,)
    return True


NUMBER = (
    st.integers(0, 1)
    | st.floats(-9, 9)
    | st.integers(-(2**64), 2**64)
    | st.sampled_from([65519.9, 65520, 3.4028235677973366e38, 3.5e38, True, None, "1"])
)
FLAT = st.lists(NUMBER, max_size=4) | st.lists(st.integers(0, 1), min_size=2, max_size=2)
DATA = FLAT | st.lists(FLAT, max_size=3) | st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), max_size=2)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "x", "x", "z", 'a"data": [[']),
        "shape": st.sampled_from([[1, 2], [2, 2], [1, 2], [2, 1], [2], [0, 2], [-1, 2], [1, 1, 2], [2**62, 2]]),
        "datatype": st.sampled_from(KINDS),
        "data": DATA,
    },
    optional={"parameters": st.sampled_from([{}, {"binary_data_size": 8}]), "more": st.just(1)},
)
OUTPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["y", "z"])},
    optional={
        "parameters": st.sampled_from([{}, None, {"binary_data": True}, {"classification": 1}, {"binary_data": 3}])
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, min_size=1, max_size=1) | st.lists(TENSOR, max_size=2)},
    optional={
        "id": st.sampled_from(["", "7", None, 3, "a:b", "\0"]),
        "outputs": st.lists(OUTPUT, max_size=2) | st.none(),
        "parameters": st.sampled_from([{}, {"binary_data_output": True}]),
        "model_name": st.just("m"),
    },
)


@settings(max_examples=500)
@given(REQUEST)
def test_requests_are_read_alike(request: Any) -> None:
    body = json.dumps(request).encode()
    for kind in KINDS:
        check(kind, body)


@settings(max_examples=200)
@given(
    st.sampled_from(KINDS), st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=1, max_size=3), st.booleans()
)
def test_numbers_are_read_alike(kind: str, rows: list[list[Any]], nested: bool) -> None:
    data = rows if nested else [value for row in rows for value in row]
    check(kind, json.dumps({"inputs": [tensor(kind, data, [len(rows), 2])]}).encode())


def tensor(kind: str, data: Any, shape: list[int]) -> dict[str, Any]:
    return {"name": "x", "shape": shape, "datatype": kind, "data": data}


@pytest.mark.parametrize(
    "more",
    [{}, {"id": "7"}, {"outputs": [{"name": "y"}]}, {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}],
)
@pytest.mark.parametrize("data", [[1, 2.5], [[1, 2.5]]])
def test_what_is_usual_is_read_in_one_pass(data: Any, more: dict[str, Any]) -> None:
    assert check("FP32", json.dumps({**more, "inputs": [tensor("FP32", data, [1, 2])]}).encode())


@pytest.mark.parametrize(
    "twice",
    [
        b'{"inputs":[{"name":"x","name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        b'{"id":"a","id":"b","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        b'{"outputs":[{"name":"y","n\\u0061me":"y"}],"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        b'{"outputs":[{"name":"y","name":"y"}],"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
    ],
)
def test_a_key_sent_twice_is_left_to_the_long_way(twice: bytes) -> None:
    assert READERS["FP32"].decode(twice) is None
    with pytest.raises(InvalidRequest, match="twice"):
        decode_infer(twice, header_length=None)


def test_a_large_tensor_is_read_in_one_pass() -> None:
    data = np.arange(40_000).tolist()
    body = json.dumps({"inputs": [tensor("FP32", data, [20_000, 2])]}).encode()
    assert len(body) > KEYS_CHECKED_BYTES
    assert check("FP32", body)


LONG = [0.5] * (MIN_BYTES // 4)


@settings(max_examples=150)
@given(
    st.sampled_from(["FP32", "FP64", "FP16", "INT64"]),
    st.lists(NUMBER | st.floats() | st.sampled_from([[], [1], "]", 1e308]), min_size=2, max_size=2),
    st.sampled_from(["{}", "{} ", "[{}]", '{},"data":[1,2]', '{},"data":[]', "{}]", "[{}", '{},"id":"]"']),
)
def test_long_lists_are_read_alike(kind: str, last: list[Any], form: str) -> None:
    data = form.format(json.dumps([*LONG, *last]))
    rows = len(LONG) // 2 + 1
    check(kind, f'{{"inputs":[{{"name":"x","shape":[{rows},2],"datatype":"{kind}","data":{data}}}]}}'.encode())


@pytest.mark.parametrize("kind", ["FP32", "FP64"])
def test_long_lists_are_read_without_python_numbers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"inputs": [tensor(kind, [*LONG, -1.5e-3, 7], [len(LONG) // 2 + 1, 2])]}).encode()
    monkeypatch.setattr(PlainTensors, "_array", None)
    assert check(kind, body)


def test_numbers_too_large_for_the_datatype_are_left_to_the_long_way() -> None:
    body = json.dumps({"inputs": [tensor("FP32", [*LONG, 1, 1e39], [len(LONG) // 2 + 1, 2])]}).encode()
    assert READERS["FP32"].decode(body) is None
    with pytest.raises(InvalidRequest):
        decode_infer(body, header_length=None)


@pytest.mark.parametrize("kind", ["BYTES", "FP32"])
def test_graphs_of_text_or_of_several_inputs_have_no_plain_requests(kind: str) -> None:
    specs = [TensorSpec(name, kind, (-1,)) for name in ("a", "b")]
    assert PlainTensors.of(Signature(tuple(specs), Y)) is None
    assert (PlainTensors.of(Signature((specs[0],), Y)) is None) == (kind == "BYTES")


# --------------------------------------------------------------------------- answers

ARRAYS = {
    "half": ("FP16", np.array([[1.5, np.inf]], np.float16)),
    "float": ("FP32", np.array([[0.1, -0.0, 3e38]], np.float32)),
    "odd": ("FP32", np.array([math.nan, math.inf, -math.inf, 1], np.float32)),
    "double": ("FP64", np.array([1e308, 1e308], np.float64)),
    "whole": ("INT64", np.arange(6, dtype=np.int64).reshape(2, 3).T),
    "truth": ("BOOL", np.array([True, False])),
    "byte": ("UINT8", np.array(7, np.uint8)),
    "none": ("FP32", np.zeros((0, 3), np.float32)),
    "many": ("FP32", np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)),
    "wide": ("FP32", np.array([1.5, 2.5], ">f4")),
}
OUTPUTS = tuple(TensorSpec(name, datatype, ()) for name, (datatype, _) in ARRAYS.items())


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ARRAYS)), st.booleans()), unique_by=lambda pair: pair[0], min_size=1),
    st.booleans(), st.booleans(), st.sampled_from(["", 'a"b', "7"]),
)  # fmt: skip
def test_answers_are_the_same_bytes(chosen: list[Any], named: bool, binary_default: bool, request_id: str) -> None:
    asked = tuple(RequestedOutput(name, binary) for name, binary in chosen) if named else None
    request = InferRequest(request_id, {}, (), asked, binary_default)
    tensors = [InferTensor(name, *ARRAYS[name]) for name, _ in chosen]

    plain = InferAnswers("m é", 3, OUTPUTS).encode(request, [t.name for t in tensors], [t.array for t in tensors])

    assert plain is not None
    slow = encode_infer("m é", 3, request, tensors)
    assert b"".join(plain.chunks) == b"".join(slow.chunks)
    assert (plain.header_length, plain.n_bytes) == (slow.header_length, slow.n_bytes)


def test_text_and_rankings_are_left_to_the_long_way() -> None:
    request = InferRequest("", {}, (), (RequestedOutput("float", classification=1),), False)
    assert InferAnswers("m", 1, OUTPUTS).encode(request, ["float"], [ARRAYS["float"][1]]) is None
    text = (TensorSpec("y", "BYTES", (-1,)),)
    plain = InferRequest("", {}, (), None, False)
    assert InferAnswers("m", 1, text).encode(plain, ["y"], [np.array(["a"], object)]) is None
