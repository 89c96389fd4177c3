"""Inference requests and answers of the Open Inference Protocol, with Triton's binary tensors.

Contract: the protocol's REST specification and Triton's binary data extension. A body is JSON, then the bytes of the
binary inputs in the order of the JSON; without a header length it is JSON alone; with header length 0 it is the bytes
of the only input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from seaway.errors import InvalidRequest, NotSupported
from seaway.types import TensorSpec
from seaway.wire.classification import best_classes
from seaway.wire.datatypes import Array, dtype_of
from seaway.wire.raw import raw_array
from seaway.wire.strict import decode_json, refuse_nul, refuse_repeated_keys
from seaway.wire.tensors import binary_array, binary_bytes, check_shape, json_array, json_values

MAX_OUTPUTS = 1000


class InferTensor(msgspec.Struct, frozen=True, gc=False):
    """A named tensor; BYTES are object arrays of bytes."""

    name: str
    datatype: str
    array: Array


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output that the caller asks for; `classification` is how many classes, 0 for the tensor itself."""

    name: str
    binary: bool = False
    classification: int = 0


class InferRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as it was sent; `outputs` None: all of them, binary if `binary_default`."""

    id: str
    parameters: dict[str, Any]
    inputs: tuple[InferTensor, ...]
    outputs: tuple[RequestedOutput, ...] | None
    binary_default: bool


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An answer's bytes; `header_length` None: plain JSON."""

    chunks: list[bytes | memoryview]
    header_length: int | None
    n_bytes: int = 0


_Dimension = Annotated[int, msgspec.Meta(ge=0)]
_Parameters = dict[str, Any] | msgspec.UnsetType | None


class _Input(msgspec.Struct):
    name: str
    shape: list[_Dimension]
    datatype: str
    parameters: _Parameters = msgspec.UNSET
    data: msgspec.Raw = msgspec.Raw()


class Output(msgspec.Struct):
    name: str
    parameters: _Parameters = msgspec.UNSET


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | msgspec.UnsetType | None = msgspec.UNSET
    parameters: _Parameters = msgspec.UNSET
    outputs: list[Output] | msgspec.UnsetType | None = msgspec.UNSET
    # KServe's client sends it along; it means nothing here, but is no reason for a second look at the keys.
    model_name: Any = msgspec.UNSET


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def decode_infer(
    body: bytes | memoryview, *, header_length: int | None, raw_spec: TensorSpec | None = None
) -> InferRequest:
    """Raises InvalidRequest naming the field, NotSupported for shared memory.

    Nothing is allocated for a declared shape before the bytes are there. Binary tensors are views of `body`: it must
    not change while they live. `raw_spec` is the model's only input, for the raw form; None when it has several.
    """
    view = memoryview(body)
    if header_length == 0:
        return _raw(view, raw_spec)
    if header_length is not None and not 0 <= header_length <= len(view):
        raise InvalidRequest(f"Inference-Header-Content-Length is {header_length}; the body has {len(view)} bytes.")
    text = bytes(body) if header_length is None else bytes(view[:header_length])
    request = _request(text)
    parameters = _parameters(request.parameters, "parameters")
    _check_priority(parameters)
    binary_default = _flag(parameters, "binary_data_output", "parameters")
    inputs = _inputs(request.inputs, view[len(text) :])
    # No outputs asked for and an empty list of them both mean all, as in Triton.
    outputs = read_outputs(request.outputs) if request.outputs else None
    return InferRequest(request.id or "", parameters, inputs, outputs, binary_default)


def _request(text: bytes) -> _Request:
    if not text:
        raise InvalidRequest('The body is empty; send JSON: {"inputs": [{"name", "shape", "datatype", "data"}]}.')
    request = decode_json(_decode, text)
    refuse_nul(text)
    refuse_repeated_keys(text, _count_keys(request))
    return request


def _count_keys(request: _Request) -> int:
    count = 1 + _count_parameters(request.parameters)
    count += (request.id is not msgspec.UNSET) + (request.outputs is not msgspec.UNSET)
    count += request.model_name is not msgspec.UNSET
    for tensor in request.inputs:
        count += 3 + bool(tensor.data) + _count_parameters(tensor.parameters)
    return count + count_output_keys(request.outputs or ())


def count_output_keys(outputs: Sequence[Output]) -> int:
    """How many keys the objects in `outputs` have."""
    return sum(1 + _count_parameters(output.parameters) for output in outputs)


def _count_parameters(parameters: _Parameters) -> int:
    return 0 if parameters is msgspec.UNSET else 1 + len(parameters or ())


def _parameters(given: _Parameters, where: str) -> dict[str, Any]:
    if not given:
        return {}
    for key in given:
        if key.startswith("triton_"):
            raise InvalidRequest(f"{where}.{key[:80]}: keys that begin with triton_ are reserved.")
        if key.startswith("shared_memory_"):
            raise NotSupported(f"{where}.{key[:80]}: shared memory is not offered; send the tensor with the request.")
    return given


def _flag(parameters: Mapping[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}.{key}: expected true or false.")
    return value


def _check_priority(parameters: Mapping[str, Any]) -> None:
    value = parameters.get("priority")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidRequest("parameters.priority must be a whole number; those of 2 and more let others go first.")


def _number(parameters: Mapping[str, Any], key: str, unit: str, where: str) -> int:
    value = parameters.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{where}.{key}: expected a number of {unit}.")
    return value


def _inputs(given: list[_Input], binary: memoryview) -> tuple[InferTensor, ...]:
    if not given:
        raise InvalidRequest("inputs: expected at least one tensor.")
    tensors: dict[str, InferTensor] = {}
    for index, tensor in enumerate(given):
        where = f"inputs[{index}]"
        if tensor.name in tensors:
            raise InvalidRequest(f"{where}.name: {tensor.name[:80]!r} is there twice.")
        size = _binary_size(tensor, where)
        if size > len(binary):
            missing = size - len(binary)
            raise InvalidRequest(f"{where}: unexpected size, expecting {missing} additional bytes.")
        tensors[tensor.name] = InferTensor(tensor.name, tensor.datatype, _array(tensor, binary[:size], where))
        binary = binary[size:]
    if len(binary):
        raise InvalidRequest(f"{len(binary)} bytes follow those of the inputs: unexpected additional input data.")
    return tuple(tensors.values())


def _array(tensor: _Input, binary: memoryview, where: str) -> Array:
    dtype = dtype_of(tensor.datatype, where)
    shape = check_shape(tensor.shape, where)
    if tensor.data:
        return json_array(tensor.data, tensor.datatype, dtype, shape, where)
    return binary_array(binary, tensor.datatype, dtype, shape, where)


def _binary_size(tensor: _Input, where: str) -> int:
    """How many of the bytes after the JSON are this input's; none when it brings JSON data."""
    parameters = _parameters(tensor.parameters, f"{where}.parameters")
    if "binary_data_size" not in parameters:
        if not tensor.data:
            raise InvalidRequest(f"{where}.data is missing; send it, or parameters.binary_data_size and the bytes.")
        return 0
    if tensor.data:
        raise InvalidRequest(f"{where} has both data and parameters.binary_data_size; send one of them.")
    return _number(parameters, "binary_data_size", "bytes", f"{where}.parameters")


def read_outputs(given: list[Output]) -> tuple[RequestedOutput, ...]:
    if len(given) > MAX_OUTPUTS:
        raise InvalidRequest(f"outputs: {len(given)} are asked for; at most {MAX_OUTPUTS} may be.")
    outputs: list[RequestedOutput] = []
    seen: set[str] = set()
    for index, one in enumerate(given):
        where = f"outputs[{index}]"
        if one.name in seen:
            raise InvalidRequest(f"{where}.name: {one.name[:80]!r} is there twice.")
        seen.add(one.name)
        parameters = _parameters(one.parameters, f"{where}.parameters")
        binary = _flag(parameters, "binary_data", f"{where}.parameters")
        classes = _number(parameters, "classification", "classes", f"{where}.parameters")
        outputs.append(RequestedOutput(one.name, binary, classes))
    return tuple(outputs)


def _raw(body: memoryview, spec: TensorSpec | None) -> InferRequest:
    if spec is None:
        raise InvalidRequest("The raw form (Inference-Header-Content-Length: 0) needs a model with exactly one input.")
    tensor = InferTensor(spec.name, spec.datatype, raw_array(body, spec))
    return InferRequest("", {}, (tensor,), None, binary_default=True)


def encode_infer(
    model: str,
    version: int,
    request: InferRequest,
    outputs: Sequence[InferTensor],
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Encoded:
    """The answer, each output in JSON or binary as the request asked.

    In JSON, numbers that are not finite are written NaN and Infinity. Raises InvalidRequest for an output that can't be
    had in the form asked for: bytes that are not text in JSON, a ranking of what is no number.
    """
    asked = {one.name: one for one in request.outputs or ()}
    described: list[Any] = []
    blobs: list[bytes | memoryview] = []
    for tensor in outputs:
        wanted = asked.get(tensor.name, RequestedOutput(tensor.name, request.binary_default))
        datatype, array, where = tensor.datatype, tensor.array, f"The output {tensor.name!r}"
        if wanted.classification:
            known = (labels or {}).get(tensor.name)
            datatype, array = "BYTES", best_classes(array, datatype, wanted.classification, known, where)
        entry: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": array.shape}
        if wanted.binary:
            blobs.append(binary_bytes(array, datatype))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = json_values(array, datatype, where)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id:
        answer["id"] = request.id
    answer["outputs"] = described
    head = _encode(answer)
    size = sum(len(blob) for blob in blobs)
    # Triton sends plain JSON when there is nothing binary to send, and its clients expect that.
    return Encoded([head, *blobs], len(head) if size else None, len(head) + size)
