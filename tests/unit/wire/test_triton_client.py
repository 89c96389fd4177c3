"""The codec against the one in Triton's own client, without a server between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from seaway.wire import InferTensor, decode_infer, encode_infer

ARRAYS: dict[str, Any] = {
    "FP32": np.array([[1.5, -2.0]], np.float32),
    "FP16": np.array([0.5], np.float16),
    "INT64": np.array([[1, 2], [3, 4]]),
    "UINT8": np.array([255], np.uint8),
    "BOOL": np.array([True, False]),
    "BYTES": np.array([b"a:b", "é".encode()], dtype=object),
}


def sent(datatype: str, *, binary: bool) -> InferInput:
    array = ARRAYS[datatype]
    tensor = InferInput(datatype, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_what_the_client_sends_comes_back_to_it_as_it_was() -> None:
    # FP16 has no JSON form in the client.
    inputs = [sent(datatype, binary=place % 2 == 0 or datatype == "FP16") for place, datatype in enumerate(ARRAYS)]
    outputs = [InferRequestedOutput(name, binary_data=name in {"FP16", "BOOL", "BYTES"}) for name in ARRAYS]
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs, request_id="r", timeout=5)
    request = decode_infer(memoryview(body), header_length=length)
    answer = encode_infer("m", 1, request, request.inputs)
    result = InferenceServerClient.parse_response_body(b"".join(answer.chunks), header_length=answer.header_length)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(result.as_numpy(name), array)
    assert result.get_response()["id"] == "r"


@pytest.mark.parametrize("binary", [True, False])
def test_the_client_reads_numbers_that_are_not_finite(*, binary: bool) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    asked = [InferRequestedOutput("y", binary_data=binary)]
    body, length = InferenceServerClient.generate_request_body([sent("FP32", binary=True)], outputs=asked)
    request = decode_infer(body, header_length=length)
    answer = encode_infer("m", 1, request, [InferTensor("y", "FP32", values)])
    result = InferenceServerClient.parse_response_body(b"".join(answer.chunks), header_length=answer.header_length)
    np.testing.assert_array_equal(result.as_numpy("y"), values)


def test_the_client_reads_classes() -> None:
    asked = [InferRequestedOutput("y", class_count=1)]
    body, length = InferenceServerClient.generate_request_body([sent("FP32", binary=True)], outputs=asked)
    scores = InferTensor("y", "FP32", np.array([[0.1, 0.7]], np.float32))
    answer = encode_infer("m", 1, decode_infer(body, header_length=length), [scores], labels={"y": ["no", "yes"]})
    result = InferenceServerClient.parse_response_body(b"".join(answer.chunks), header_length=answer.header_length)
    assert result.as_numpy("y").tolist() == [[b"0.700000:1:yes"]]


def test_the_client_reads_byte_strings_in_json_as_text() -> None:
    asked = [InferRequestedOutput("BYTES", binary_data=False)]
    body, length = InferenceServerClient.generate_request_body([sent("BYTES", binary=True)], outputs=asked)
    request = decode_infer(body, header_length=length)
    answer = encode_infer("m", 1, request, request.inputs)
    result = InferenceServerClient.parse_response_body(b"".join(answer.chunks), header_length=answer.header_length)
    assert result.as_numpy("BYTES").tolist() == ["a:b", "é"]
