"""Inference requests and answers of the Open Inference Protocol, with Triton's binary tensors.

Contract: the protocol's REST specification and Triton's binary data extension. A body is JSON, then the bytes of the
binary inputs in the order of the JSON; without a header length it is JSON alone; with header length 0 it is the bytes
of the only input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest, NotSupported
from seaway.types import TensorSpec
from seaway.wire.datatypes import dtype_of
from seaway.wire.tensors import binary_array, binary_bytes, json_array, json_values, shape_of

MAX_OUTPUTS = 1024
_NO_PARAMETERS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class InferTensor:
    """A named tensor; BYTES are object arrays of bytes."""

    name: str
    datatype: str
    array: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the caller asks for; `classification` is how many classes, 0 for the tensor itself."""

    name: str
    binary: bool = False
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as it was sent; `outputs` None: all of them, binary if `binary_default`."""

    id: str
    parameters: dict[str, Any]
    inputs: tuple[InferTensor, ...]
    outputs: tuple[RequestedOutput, ...] | None
    binary_default: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer's bytes; `header_length` None: plain JSON."""

    chunks: list[bytes | memoryview]
    header_length: int | None
    n_bytes: int = field(default=0)


class _Input(msgspec.Struct):
    name: str
    shape: list[Any]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def decode_infer(
    body: bytes | memoryview, *, header_length: int | None, raw_spec: TensorSpec | None = None
) -> InferRequest:
    """Raises InvalidRequest naming the field; no memory is taken for a declared shape before the bytes are there.

    `raw_spec` is the model's only input, for the raw form; None when it has several.
    """
    view = memoryview(body)
    if header_length == 0:
        return _raw(view, raw_spec)
    if header_length is not None and not 0 <= header_length <= len(view):
        raise InvalidRequest(f"Inference-Header-Content-Length is {header_length}; the body has {len(view)} bytes.")
    json_part = view if header_length is None else view[:header_length]
    request = _request(json_part)
    parameters = _parameters(request.parameters, "parameters")
    inputs = _inputs(request.inputs, view[len(json_part) :])
    outputs = None if request.outputs is None or not request.outputs else _outputs(request.outputs)
    return InferRequest(request.id or "", parameters, inputs, outputs, _flag(parameters, "binary_data_output", "parameters"))


def _request(json_part: memoryview) -> _Request:
    if not len(json_part):
        raise InvalidRequest('The body is empty; send JSON: {"inputs": [{"name", "shape", "datatype", "data"}]}.')
    try:
        return _decode(json_part)
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        place = path.rstrip("`").lstrip(".") or "the body"
        raise InvalidRequest(f"{place}: {message[:1].lower()}{message[1:]}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error


def _parameters(given: dict[str, Any] | None, where: str) -> dict[str, Any]:
    if not given:
        return _NO_PARAMETERS
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


def _inputs(given: list[_Input], binary: memoryview) -> tuple[InferTensor, ...]:
    if not given:
        raise InvalidRequest("inputs: expected at least one tensor.")
    tensors: list[InferTensor] = []
    seen: set[str] = set()
    at = 0
    for index, one in enumerate(given):
        where = f"inputs[{index}]"
        if one.name in seen:
            raise InvalidRequest(f"{where}.name: {one.name[:80]!r} is there twice.")
        seen.add(one.name)
        dtype = dtype_of(one.datatype, where)
        shape = shape_of(one.shape, where)
        size = _binary_size(_parameters(one.parameters, f"{where}.parameters"), where)
        if size is None:
            if not one.data:
                raise InvalidRequest(f"{where}.data is missing; send data, or parameters.binary_data_size and the bytes.")
            array = json_array(one.data, one.datatype, dtype, shape, where)
        else:
            if one.data:
                raise InvalidRequest(f"{where} has both data and parameters.binary_data_size; send one of them.")
            if size > len(binary) - at:
                missing = size - (len(binary) - at)
                raise InvalidRequest(f"{where}: unexpected size, expecting {missing} additional bytes.")
            array = binary_array(binary[at : at + size], one.datatype, dtype, shape, where)
            at += size
        tensors.append(InferTensor(one.name, one.datatype, array))
    if at != len(binary):
        raise InvalidRequest(f"The body has {len(binary) - at} bytes more than its inputs: unexpected additional input data.")
    return tuple(tensors)


def _binary_size(parameters: Mapping[str, Any], where: str) -> int | None:
    size = parameters.get("binary_data_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise InvalidRequest(f"{where}.parameters.binary_data_size: expected a number of bytes.")
    return size


def _outputs(given: list[_Output]) -> tuple[RequestedOutput, ...]:
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
        classes = parameters.get("classification", 0)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
            raise InvalidRequest(f"{where}.parameters.classification: expected a number of classes.")
        outputs.append(RequestedOutput(one.name, _flag(parameters, "binary_data", f"{where}.parameters"), classes))
    return tuple(outputs)


def _raw(body: memoryview, spec: TensorSpec | None) -> InferRequest:
    """The raw form: the bytes of the only input, one sample; all outputs come back binary."""
    if spec is None:
        raise InvalidRequest("The raw form (Inference-Header-Content-Length: 0) needs a model with exactly one input.")
    dtype = dtype_of(spec.datatype, "The model's input")
    if spec.datatype == "BYTES":
        array = np.empty(1, dtype=np.object_)
        array[0] = bytes(body)
        shape: tuple[int, ...] = tuple(1 for _ in spec.shape) or (1,)
        array = array.reshape(shape)
    else:
        shape = _raw_shape(spec, len(body), dtype.itemsize)
        array = binary_array(body, spec.datatype, dtype, shape, "The body")
    return InferRequest("", {}, (InferTensor(spec.name, spec.datatype, array),), None, binary_default=True)


def _raw_shape(spec: TensorSpec, size: int, itemsize: int) -> tuple[int, ...]:
    # A leading variable dimension counts samples, and the raw form is one sample; one other may follow the size.
    shape = [1, *spec.shape[1:]] if spec.shape[:1] == (-1,) and len(spec.shape) > 1 else list(spec.shape)
    variable = [axis for axis, extent in enumerate(shape) if extent == -1]
    if len(variable) > 1:
        raise InvalidRequest(f"The raw form can't tell the sizes of {len(variable)} variable dimensions of {spec.name!r}.")
    if variable:
        fixed = itemsize
        for extent in shape:
            fixed *= 1 if extent == -1 else extent
        if fixed == 0 or size % fixed:
            raise InvalidRequest(f"The body has {size} bytes, which is no multiple of {fixed}, one row of {spec.name!r}.")
        shape[variable[0]] = size // fixed
    return tuple(shape)


def encode_infer(
    model: str,
    version: int,
    request: InferRequest,
    outputs: Sequence[InferTensor],
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Encoded:
    """The answer, each output in JSON or binary as the request asked; numbers that are not finite are written NaN, Infinity."""
    asked = {one.name: one for one in request.outputs or ()}
    described: list[Any] = []
    blobs: list[bytes | memoryview] = []
    for tensor in outputs:
        wanted = asked.get(tensor.name, RequestedOutput(tensor.name, request.binary_default))
        if wanted.classification:
            tensor = _classify(tensor, wanted.classification, (labels or {}).get(tensor.name))  # noqa: PLW2901
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.array.shape)}
        if wanted.binary:
            blob = binary_bytes(tensor.array, tensor.datatype)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = json_values(tensor.array, tensor.datatype)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id:
        answer["id"] = request.id
    answer["outputs"] = described
    head = _encode(answer)
    size = sum(len(blob) for blob in blobs)
    # Triton sends plain JSON when there is nothing binary to send, and its clients expect that.
    return Encoded([head, *blobs], len(head) if size else None, len(head) + size)


def _classify(tensor: InferTensor, count: int, labels: Sequence[str] | None) -> InferTensor:
    """The classification extension: the `count` largest of each row, as "value:index[:label]"."""
    array = tensor.array
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise InvalidRequest(f"The output {tensor.name!r} can't be ranked: it is {tensor.datatype} of rank {array.ndim}.")
    # As in Triton, the first dimension counts samples when there is another.
    rows = array.reshape(1, -1) if array.ndim == 1 else array.reshape(array.shape[0], -1)
    count = min(count, rows.shape[1])
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    ranked = np.empty(order.shape, dtype=np.object_)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            label = f":{labels[index]}" if labels and index < len(labels) else ""
            ranked[row, place] = f"{float(rows[row, index]):f}:{index}{label}".encode()
    return InferTensor(tensor.name, "BYTES", ranked[0] if array.ndim == 1 else ranked)
