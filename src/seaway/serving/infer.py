"""The Open Inference Protocol's tensors against a model's signature: names, datatypes, shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seaway.errors import InvalidRequest
from seaway.inputs.arrays import check_finite, check_shape
from seaway.inputs.base import Array, Feeds, shown
from seaway.types import Signature, TensorSpec
from seaway.wire.oip import InferRequest, InferTensor


def input_tensors(request: InferRequest, signature: Signature, *, allow_nonfinite: bool) -> Feeds:
    """The request's tensors as the graph takes them. Raises InvalidRequest naming the input that is wrong."""
    specs = {spec.name: spec for spec in signature.inputs}
    feeds: Feeds = {}
    for tensor in request.inputs:
        if tensor.name not in specs:
            raise InvalidRequest(f"The model has no input {shown(tensor.name)}; it has: {_names(signature.inputs)}.")
        feeds[tensor.name] = _checked(tensor, specs[tensor.name], allow_nonfinite=allow_nonfinite)
    for name in specs:
        if name not in feeds:
            raise InvalidRequest(f"The input {name!r} is missing; the model takes: {_names(signature.inputs)}.")
    return feeds


def count_rows(feeds: Feeds, signature: Signature) -> int:
    """Samples in a request: the first axis where it counts them. Raises InvalidRequest when there is none."""
    if not signature.batchable or not feeds:
        return 1
    rows = len(feeds[signature.inputs[0].name])
    if rows == 0:
        raise InvalidRequest(f"The input {signature.inputs[0].name!r} holds no sample; send at least one.")
    return rows


def output_names(request: InferRequest, signature: Signature) -> tuple[str, ...]:
    """The outputs asked for, else all. Raises InvalidRequest for one that the graph doesn't have."""
    known = tuple(spec.name for spec in signature.outputs)
    if not request.outputs:
        return known
    for output in request.outputs:
        if output.name not in known:
            raise InvalidRequest(f"The model has no output {shown(output.name)}; it has: {_names(signature.outputs)}.")
    return tuple(output.name for output in request.outputs)


def output_tensors(names: Sequence[str], arrays: Sequence[Array], signature: Signature) -> list[InferTensor]:
    """What the graph gave as protocol tensors; strings become UTF-8 bytes."""
    datatypes = {spec.name: spec.datatype for spec in signature.outputs}
    return [
        InferTensor(name, datatypes[name], _map(array, str.encode) if datatypes[name] == "BYTES" else array)
        for name, array in zip(names, arrays, strict=True)
    ]


def _checked(tensor: InferTensor, spec: TensorSpec, *, allow_nonfinite: bool) -> Array:
    where = f"The input {spec.name!r}"
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(f"{where} is of datatype {shown(tensor.datatype)}; the model takes {spec.datatype}.")
    array = tensor.array
    check_shape(array.shape, spec, where=where)
    if spec.datatype == "BYTES":
        try:
            return _map(array, bytes.decode)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{where} holds bytes that are not UTF-8 text; the graph takes strings.") from error
    if not allow_nonfinite:
        check_finite(array, where=where, datatype=spec.datatype)
    # A tensor that starts at an odd byte of the body would be read unaligned by native code.
    return array if array.flags.aligned and array.flags.c_contiguous else array.copy(order="C")


def _map(array: Array, change: Callable[[Any], Any]) -> Array:
    changed: Array = np.empty(array.size, dtype=np.object_)
    changed[:] = [change(item) for item in array.reshape(-1)]
    shaped: Array = changed.reshape(array.shape)
    return shaped


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
