"""The Open Inference Protocol's bytes: what a real Triton client sends, and everything nobody should send."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest, NotSupported
from seaway.types import TensorSpec
from seaway.wire.oip import InferRequest, InferTensor, RequestedOutput, decode_infer, encode_infer

# Captured from tritonclient.http 2.73.0.
CAPTURED_JSON = (
    b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}},'
    b'{"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":12}}],'
    b'"parameters":{"binary_data_output":true}}'
)
CAPTURED = CAPTURED_JSON + struct.pack("<3f", 1, 2, 3) + bytes.fromhex("02000000616202000000c3a9")


def request(**tensor: Any) -> bytes:
    return msgspec.json.encode({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]} | tensor]})


def binary(size: Any, data: bytes, **tensor: Any) -> tuple[bytes, int]:
    head = msgspec.json.encode(
        {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": size}} | tensor]}
    )
    return head + data, len(head)


def test_what_a_real_client_sends_is_read() -> None:
    assert len(CAPTURED_JSON) == 216
    decoded = decode_infer(CAPTURED, header_length=216)
    x, s = decoded.inputs
    np.testing.assert_array_equal(x.array, np.array([[1, 2, 3]], np.float32))
    assert s.array.tolist() == [b"ab", b"\xc3\xa9"]
    assert decoded.outputs is None
    assert decoded.binary_default


def test_listed_outputs_are_binary_only_where_they_say_so() -> None:
    body = (
        b'{"id":"rid","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}},{"name":"t","parameters":{"binary_data":false}}],'
        b'"parameters":{"priority":1,"timeout":5000,"foo":1.5}}'
    )
    decoded = decode_infer(body, header_length=None)
    assert decoded.outputs == (RequestedOutput("y", binary=True), RequestedOutput("t"))
    assert (decoded.id, decoded.parameters["foo"]) == ("rid", 1.5)
    answer = encode_infer("m", 2, decoded, [tensor("y", [1.0]), tensor("t", [2.0])])
    assert answer.header_length is not None
    head = msgspec.json.decode(answer.chunks[0])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert head["outputs"][1]["data"] == [2.0]
    assert head["id"] == "rid"
    assert answer.n_bytes == sum(len(chunk) for chunk in answer.chunks)


def tensor(name: str, values: list[float]) -> InferTensor:
    return InferTensor(name, "FP32", np.array(values, np.float32))


def test_nested_and_flat_data_mean_the_same() -> None:
    flat = decode_infer(request(shape=[2, 2], data=[1, 2, 3, 4]), header_length=None).inputs[0].array
    nested = decode_infer(request(shape=[2, 2], data=[[1, 2], [3, 4]]), header_length=None).inputs[0].array
    np.testing.assert_array_equal(flat, nested)


@pytest.mark.parametrize("kind", [bytes, memoryview, bytearray])
def test_a_binary_tensor_is_a_view_of_the_body(kind: Any) -> None:
    body, head = binary(8, struct.pack("<2f", 1, 2))
    held = kind(body)
    array = decode_infer(held, header_length=head).inputs[0].array
    assert np.shares_memory(array, np.frombuffer(held, dtype=np.uint8))
    assert array.tolist() == [1.0, 2.0]


def test_binary_and_json_inputs_mix_in_the_order_of_the_json() -> None:
    inputs = [
        {"name": "a", "shape": [1], "datatype": "INT16", "parameters": {"binary_data_size": 2}},
        {"name": "b", "shape": [1], "datatype": "INT16", "data": [2]},
        {"name": "c", "shape": [0], "datatype": "FP32", "parameters": {"binary_data_size": 0}},
        {"name": "d", "shape": [1], "datatype": "INT16", "parameters": {"binary_data_size": 2}},
    ]
    head = msgspec.json.encode({"inputs": inputs})
    decoded = decode_infer(head + struct.pack("<2h", 1, 4), header_length=len(head))
    assert {one.name: one.array.tolist() for one in decoded.inputs} == {"a": [1], "b": [2], "c": [], "d": [4]}


def test_keys_that_nobody_reads_are_passed_over() -> None:
    body = (
        b'{"model_name":"m","id":"1","client":{"a:b":[1,{"c":2}]},'
        b'"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a:b"],"note":"c:d"}]}'
    )
    assert decode_infer(body, header_length=None).inputs[0].array.tolist() == [b"a:b"]


def test_dimensions_of_1_may_be_left_out_of_the_nesting() -> None:
    (given,) = decode_infer(request(shape=[1, 2, 1], data=[[1, 2]]), header_length=None).inputs
    assert given.array.shape == (1, 2, 1)


def test_a_declared_shape_alone_takes_no_memory() -> None:
    bodies = [request(shape=[2**40]), request(shape=[2**40], datatype="BYTES", data=["a"])]
    tracemalloc.start()
    for body in bodies:
        with pytest.raises(InvalidRequest, match="needs"):
            decode_infer(body, header_length=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_million_empty_byte_strings_take_memory_in_proportion() -> None:
    body, head = binary(4_000_000, bytes(4_000_000), datatype="BYTES", shape=[1_000_000])
    tracemalloc.start()
    array = decode_infer(body, header_length=head).inputs[0].array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.size == 1_000_000
    assert peak < 5 * len(body)


@pytest.mark.parametrize(
    ("spec", "body", "shape"),
    [
        (TensorSpec("x", "FP32", (-1, -1)), bytes(12), (1, 3)),
        (TensorSpec("x", "FP32", (-1, 3)), bytes(12), (1, 3)),
        (TensorSpec("x", "FP32", (-1,)), bytes(12), (3,)),
        (TensorSpec("x", "UINT8", (2, 2)), bytes(4), (2, 2)),
        (TensorSpec("x", "BYTES", (-1, 1)), b"any", (1, 1)),
    ],
)
def test_the_raw_form_takes_its_shape_from_the_size(spec: TensorSpec, body: bytes, shape: tuple[int, ...]) -> None:
    decoded = decode_infer(body, header_length=0, raw_spec=spec)
    assert decoded.inputs[0].array.shape == shape
    assert decoded.binary_default


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (None, "exactly one input"),
        (TensorSpec("x", "FP32", (-1, -1, -1)), "2 variable dimensions"),
        (TensorSpec("x", "FP32", (-1, 4)), "needs 16"),
        (TensorSpec("x", "FP32", (2, -1)), "no multiple of 8"),
        (TensorSpec("x", "FP32", (0, -1)), "no multiple of 0"),
    ],
)
def test_a_body_that_the_raw_form_cannot_mean_is_refused(spec: TensorSpec | None, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        decode_infer(bytes(12), header_length=0, raw_spec=spec)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b"not json", "not valid JSON"),
        (b"[1]", "expected"),
        (b'{"inputs": 5}', "inputs"),
        (b'{"inputs": []}', "at least one tensor"),
        (request(data=None), r"inputs\[0\].data"),
        (request(shape=[-1]), r"inputs\[0\].shape\[0\]"),
        (request(shape=[2.0]), r"inputs\[0\].shape\[0\]"),
        (request(shape=["2"]), r"inputs\[0\].shape\[0\]"),
        (request(shape=[True]), r"inputs\[0\].shape\[0\]"),
        (request(shape=[None]), r"inputs\[0\].shape\[0\]"),
        (request(shape=[1] * 1000), "dimensions"),
        (request(shape=[2**63 - 1, 4]), "too large"),
        (request(shape=[2**63, 1]), "shape"),
        (request(shape=[0, 2**63 - 1], data=[]), "too large"),
        (request(shape=2), "expected a list"),
        (request(shape=[[1]]), "expected an integer, got a list"),
        (request(shape=[2**70]), "too large"),
        (request(shape=[3]), "needs 3"),
        (request(shape=[1]), "needs 1"),
        (request(datatype="FLOAT"), "no datatype"),
        (request(datatype="BF16"), "BF16"),
        (request(data=[[1], [2, 3]], shape=[3]), "different lengths"),
        (request(data=[[1], 2]), r"data\[1\]: expected a list, got an integer"),
        (request(data=[1, [2]]), r"data\[1\]: expected a number, got a list"),
        (request(data=[[1, 2, 3], [4, 5, 6]], shape=[3, 2]), r"nested as \[2, 3\]"),
        (request(data=1.5, shape=[]), "expected a list"),
        (request(data={"a": 1}, shape=[1]), "expected a list, got an object"),
        (request(data=[1, None]), r"data\[1\]: expected a number, got null"),
        (request(data=[1, True]), r"data\[1\]: expected a number, got a boolean"),
        (request(data=[[1, 2], [3, True]], shape=[2, 2], datatype="INT32"), "got a boolean"),
        (request(data=[0, 1], datatype="BOOL"), "expected a boolean"),
        (request(data=[1, 2], datatype="BYTES"), "expected a string"),
        (request(data=["1", "2"]), "expected a number, got a string"),
        (request(data=[1.5, 2], datatype="INT32"), "expected an integer"),
        (request(data=[1.0, 2], datatype="INT32"), "expected an integer"),
        (request(data=[1, 300], datatype="UINT8"), "can't represent"),
        (request(data=[1, -1], datatype="UINT32"), "can't represent"),
        (request(data=[1, 2**63], datatype="INT64"), "can't represent"),
        (request(data=[1, 1e39]), "can't represent"),
        (request(data=[1, 70000], datatype="FP16"), "can't represent"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}', "not valid JSON"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1e400]}]}', "."),
        (b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32","data":[1]}]}', "."),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}', "not valid JSON"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\u0000"]}]}', "NUL"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[-Infinity]}]}', "not valid JSON"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":[' + b"9" * 10_000 + b"]}]}", "out of range"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"data":[2]}]}', "'data' is there twice"),
        (b'{"inputs":[],"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}', "'inputs' is there twice"),
        (b'{"a":"\xff","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}', "not valid JSON"),
        (b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP32","data":[1]}]}', "."),
        (b'{"inputs":' + b"[" * 250_000, "."),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 9999 + b"]" * 9999 + b"}]}",
            "nested",
        ),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}', "data is missing"),
        (request(parameters={"binary_data_size": 8}), "both data"),
        (request(parameters=[]), r"inputs\[0\].parameters: expected an object, got a list"),
    ],
)
def test_a_defect_is_refused_and_named(body: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        decode_infer(body, header_length=None)


@pytest.mark.parametrize(
    ("size", "data", "what"),
    [
        (10**12, b"12345678", "additional bytes"),
        (-4, b"12345678", "number of bytes"),
        (8, b"1234567", "expecting 1 additional"),
        (8, b"123456789", "unexpected additional input data"),
        (4, b"1234", "needs 8"),
        ("8", b"12345678", "number of bytes"),
        (True, b"1", "number of bytes"),
    ],
)
def test_binary_sizes_must_add_up(size: Any, data: bytes, what: str) -> None:
    body, head = binary(size, data)
    with pytest.raises(InvalidRequest, match=what):
        decode_infer(body, header_length=head)


def test_bytes_without_an_input_to_take_them_are_refused() -> None:
    body = request()
    with pytest.raises(InvalidRequest, match="unexpected additional input data"):
        decode_infer(body + b"more", header_length=len(body))


@pytest.mark.parametrize("header_length", [-1, 1000])
def test_a_header_length_outside_the_body_is_refused(header_length: int) -> None:
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        decode_infer(b"{}", header_length=header_length)


def test_a_byte_that_is_neither_0_nor_1_is_no_bool() -> None:
    body, head = binary(2, b"\x01\x02", datatype="BOOL")
    with pytest.raises(InvalidRequest, match="0 or 1"):
        decode_infer(body, header_length=head)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x01\x00\x00\x00", b"\x00\x00", b"\x00" * 9])
def test_byte_strings_stay_within_their_bytes(data: bytes) -> None:
    body, head = binary(len(data), data, datatype="BYTES", shape=[2])
    with pytest.raises(InvalidRequest):
        decode_infer(body, header_length=head)


def test_an_input_or_output_named_twice_is_refused() -> None:
    one = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    with pytest.raises(InvalidRequest, match="twice"):
        decode_infer(msgspec.json.encode({"inputs": [one, one]}), header_length=None)
    with pytest.raises(InvalidRequest, match="twice"):
        decode_infer(msgspec.json.encode({"inputs": [one], "outputs": [{"name": "y"}] * 2}), header_length=None)


def test_reserved_parameters_are_refused_and_shared_memory_is_not_offered() -> None:
    one = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    with pytest.raises(InvalidRequest, match="reserved"):
        decode_infer(msgspec.json.encode({"inputs": [one], "parameters": {"triton_x": 1}}), header_length=None)
    with pytest.raises(NotSupported):
        decode_infer(request(parameters={"shared_memory_region": "r"}), header_length=None)


@pytest.mark.parametrize("priority", [True, "2", 1.5, [1], {"at": 1}], ids=str)
def test_a_priority_that_is_no_whole_number_is_refused(priority: Any) -> None:
    body = request()[:-1] + b',"parameters":{"priority":%s}}' % msgspec.json.encode(priority)
    with pytest.raises(InvalidRequest, match=r"parameters\.priority must be a whole number"):
        decode_infer(body, header_length=None)


@pytest.mark.parametrize("priority", [0, 1, 2, None], ids=str)
def test_a_priority_is_kept(priority: int | None) -> None:
    body = request()[:-1] + b',"parameters":{"priority":%s}}' % msgspec.json.encode(priority)
    assert decode_infer(body, header_length=None).parameters == {"priority": priority}


def test_ten_thousand_requested_outputs_are_too_many() -> None:
    body = msgspec.json.encode(
        {
            "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}],
            "outputs": [{"name": f"y{number}"} for number in range(10_000)],
        }
    )
    with pytest.raises(InvalidRequest, match="at most"):
        decode_infer(body, header_length=None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "shape", "data"]), inner, max_size=4)
    ),
    max_leaves=12,
)
tensors = st.fixed_dictionaries(
    {
        "name": st.just("x") | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "BYTES", "UINT8", "nope"]) | json_values,
    },
    optional={"data": json_values, "parameters": st.dictionaries(st.just("binary_data_size"), json_values)},
)


@given(st.lists(tensors, max_size=3), st.binary(max_size=40))
def test_any_request_is_read_or_refused_and_never_anything_else(inputs: list[Any], tail: bytes) -> None:
    head = msgspec.json.encode({"inputs": inputs})
    with contextlib.suppress(InvalidRequest, NotSupported):
        assert len(decode_infer(head + tail, header_length=len(head)).inputs) == len(inputs)


@given(st.integers(0, len(CAPTURED) - 1), st.binary(max_size=3), st.none() | st.integers(0, 300))
def test_a_real_request_with_a_wound_is_read_or_refused(at: int, other: bytes, header_length: int | None) -> None:
    body = CAPTURED[:at] + other + CAPTURED[at + 1 :]
    with contextlib.suppress(InvalidRequest, NotSupported):
        assert decode_infer(memoryview(body), header_length=header_length).inputs


@given(
    st.binary(max_size=30),
    st.sampled_from(["FP32", "FP64", "BOOL", "BYTES", "BF16"]),
    st.lists(st.integers(-1, 4), max_size=4),
)
def test_any_bytes_in_the_raw_form_are_read_or_refused(body: bytes, datatype: str, shape: list[int]) -> None:
    with contextlib.suppress(InvalidRequest):
        (given,) = decode_infer(body, header_length=0, raw_spec=TensorSpec("x", datatype, tuple(shape))).inputs
        assert given.array.ndim == len(shape) or datatype == "BYTES"


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_read_or_refused(body: bytes, header_length: int | None) -> None:
    with pytest.raises((InvalidRequest, NotSupported)):
        decode_infer(body, header_length=header_length, raw_spec=None)


@given(
    st.sampled_from(["FP32", "FP64", "INT8", "UINT16", "INT64", "BOOL", "BYTES"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.booleans(),
    st.data(),
)
def test_a_tensor_survives_the_way_there_and_back(
    datatype: str, shape: list[int], as_binary: bool, data: st.DataObject
) -> None:
    count = int(np.prod(shape))
    elements: dict[str, st.SearchStrategy[Any]] = {
        "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "FP64": st.floats(allow_nan=False, allow_infinity=False),
        "INT8": st.integers(-128, 127),
        "UINT16": st.integers(0, 65535),
        "INT64": st.integers(-(2**63), 2**63 - 1),
        "BOOL": st.booleans(),
        "BYTES": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
    }
    values = data.draw(st.lists(elements[datatype], min_size=count, max_size=count))
    first = decode_infer(request(datatype=datatype, shape=shape, data=values), header_length=None)
    asked = InferRequest("", {}, (), None, binary_default=as_binary)
    answer = encode_infer("m", 1, asked, first.inputs)
    whole = b"".join(answer.chunks)
    head = msgspec.json.decode(whole[: answer.header_length])
    again = msgspec.json.encode({"inputs": head["outputs"]}) + (
        whole[answer.header_length :] if answer.header_length else b""
    )
    length = len(msgspec.json.encode({"inputs": head["outputs"]})) if answer.header_length else None
    second = decode_infer(again, header_length=length)
    np.testing.assert_array_equal(second.inputs[0].array, first.inputs[0].array)
