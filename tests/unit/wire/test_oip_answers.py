"""Answers of the Open Inference Protocol: JSON, binary tensors, classification."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from seaway.errors import InvalidRequest
from seaway.wire import InferRequest, InferTensor, RequestedOutput, encode_infer

AS_JSON = InferRequest("", {}, (), None, binary_default=False)
AS_BINARY = InferRequest("", {}, (), None, binary_default=True)


def asking(*outputs: RequestedOutput) -> InferRequest:
    return InferRequest("", {}, (), outputs, binary_default=False)


def output(request: InferRequest, datatype: str, array: Any, **labels: list[str]) -> dict[str, Any]:
    """The JSON of the only output."""
    answer = encode_infer("m", 1, request, [InferTensor("y", datatype, np.asarray(array))], labels=labels)
    described: dict[str, Any] = msgspec.json.decode(answer.chunks[0])["outputs"][0]
    return described


def test_an_answer_names_model_version_and_the_caller_s_id() -> None:
    asked = InferRequest("rid", {}, (), None, binary_default=False)
    answer = encode_infer("m", 3, asked, [InferTensor("y", "INT8", np.array([[1, 2]], np.int8))])
    assert msgspec.json.decode(answer.chunks[0]) == {
        "model_name": "m",
        "model_version": "3",
        "id": "rid",
        "outputs": [{"name": "y", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}],
    }
    assert answer.header_length is None
    assert answer.n_bytes == len(answer.chunks[0])


def test_without_an_id_none_is_answered() -> None:
    assert b'"id"' not in encode_infer("m", 1, AS_JSON, []).chunks[0]


def test_binary_bytes_follow_in_the_order_of_the_outputs() -> None:
    tensors = [
        InferTensor("a", "FP32", np.array([1.5], ">f4")),
        InferTensor("b", "BYTES", np.array([b"\xff", "é"], dtype=object)),
        InferTensor("c", "INT16", np.arange(6, dtype=np.int16).reshape(2, 3).T),
        InferTensor("d", "BOOL", np.array([True, False])),
    ]
    answer = encode_infer("m", 1, AS_BINARY, tensors)
    whole = b"".join(answer.chunks)
    assert len(whole) == answer.n_bytes
    assert whole[answer.header_length :] == (
        struct.pack("<f", 1.5)
        + b"\x01\x00\x00\x00\xff\x02\x00\x00\x00\xc3\xa9"
        + struct.pack("<6h", 0, 3, 1, 4, 2, 5)
        + b"\x01\x00"
    )
    sizes = [one["parameters"]["binary_data_size"] for one in msgspec.json.decode(answer.chunks[0])["outputs"]]
    assert sizes == [4, 11, 12, 2]


def test_a_contiguous_output_is_sent_without_a_copy() -> None:
    array = np.zeros((4, 4), np.float32)
    answer = encode_infer("m", 1, AS_BINARY, [InferTensor("y", "FP32", array)])
    assert np.shares_memory(np.frombuffer(answer.chunks[1], np.uint8), array)


def test_an_answer_without_binary_bytes_is_plain_json() -> None:
    answer = encode_infer("m", 1, AS_BINARY, [InferTensor("y", "FP32", np.zeros((0, 3), np.float32))])
    assert answer.header_length is None


def test_numbers_that_are_not_finite_are_written_as_tokens() -> None:
    values = np.array([[float("nan"), 1.0], [float("inf"), -float("inf")]], np.float32)
    answer = encode_infer("m", 1, AS_JSON, [InferTensor("y", "FP32", values)])
    assert b'"data":[NaN,1.0,Infinity,-Infinity]' in answer.chunks[0]


def test_bfloat16_is_written_as_the_numbers_it_stands_for() -> None:
    assert output(AS_JSON, "BF16", np.array([0x3F80, 0xC020], np.uint16))["data"] == [1.0, -2.5]


def test_bytes_that_are_not_text_go_out_only_as_binary() -> None:
    with pytest.raises(InvalidRequest, match="binary_data: true"):
        output(AS_JSON, "BYTES", np.array([b"\xff"], dtype=object))


def test_an_array_of_another_kind_than_its_datatype_is_never_sent_as_bytes() -> None:
    with pytest.raises(TypeError):
        encode_infer("m", 1, AS_BINARY, [InferTensor("y", "INT32", np.array([1.5]))])


def test_classification_ranks_each_row_with_its_labels() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [np.nan, 0.5, 0.5]], np.float32)
    ranked = output(asking(RequestedOutput("y", classification=2)), "FP32", scores, y=["a", "b", "c"])
    assert ranked["data"] == ["0.700000:1:b", "0.200000:2:c", "0.500000:1:b", "0.500000:2:c"]
    assert (ranked["datatype"], ranked["shape"]) == ("BYTES", [2, 2])


@pytest.mark.parametrize(
    ("datatype", "scores", "ranked"),
    [
        ("INT64", np.array([2**62, 2**62 + 1, -(2**63)]), ["4611686018427387905:1", "4611686018427387904:0"]),
        ("UINT8", np.array([3, 9, 9], np.uint8), ["9:1", "9:2"]),
        ("BF16", np.array([0x3F80, 0x4000], np.uint16), ["2.000000:1", "1.000000:0"]),
        ("FP32", np.array([1.0], np.float32), ["1.000000:0"]),
    ],
)
def test_classification_ranks_any_number(datatype: str, scores: Any, ranked: list[str]) -> None:
    assert output(asking(RequestedOutput("y", classification=2)), datatype, scores)["data"] == ranked


def test_an_output_of_no_row_has_no_classes() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert output(asking(RequestedOutput("y", classification=2)), "FP32", empty)["shape"] == [0, 2]


@pytest.mark.parametrize(("datatype", "array"), [("BYTES", np.array([b"a"], dtype=object)), ("FP32", np.float32(1))])
def test_what_is_no_list_of_numbers_cannot_be_ranked(datatype: str, array: Any) -> None:
    with pytest.raises(InvalidRequest, match="can't be ranked"):
        output(asking(RequestedOutput("y", classification=1)), datatype, array)
