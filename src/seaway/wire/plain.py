"""The `/v2` requests and answers that a model gets and gives most, read and written in one pass.

What is not plain is None here, and `decode_infer` then reads it or says what is wrong; answers are the same bytes as
those of `encode_infer`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from functools import cache
from types import GenericAlias
from typing import Annotated, Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.types import Signature, TensorSpec
from seaway.wire.datatypes import DTYPES, Array
from seaway.wire.numbers import MIN_BYTES, read_floats
from seaway.wire.oip import Encoded, InferRequest, Output, RequestedOutput, count_output_keys, read_outputs
from seaway.wire.strict import KEYS_CHECKED_BYTES
from seaway.wire.tensors import binary_bytes, flat_numbers, flattened, layout

_DATA = re.compile(rb'"data"\s*:((?:\s*\[){1,16})')
_ELEMENTS: dict[str, Any] = {"f": float, "i": int, "u": int, "b": bool}
_Dimension = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
_encode = msgspec.json.Encoder().encode
_decode_outputs = msgspec.json.Decoder(list[Output] | None).decode
_OUTPUTS = b',"outputs":['
_MAX_REMEMBERED = 256
_REMEMBERED_BYTES = 512


@cache
def _decoder(kind: str, depth: int) -> Any:
    data = _ELEMENTS[kind]
    for _ in range(depth):
        data = GenericAlias(list, (data,))
    fields = [("name", str), ("shape", list[_Dimension]), ("datatype", str), ("data", data)]
    tensor = msgspec.defstruct("Tensor", fields, forbid_unknown_fields=True, gc=False)
    request = msgspec.defstruct(
        "Request",
        [
            ("inputs", Annotated[GenericAlias(list, (tensor,)), msgspec.Meta(min_length=1, max_length=1)]),
            ("id", str | None | msgspec.UnsetType, msgspec.UNSET),
            ("outputs", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.json.Decoder(request).decode


class _Asked(msgspec.Struct, frozen=True):
    """The `outputs` of a request, and how many keys they make in it, their own among them."""

    outputs: tuple[RequestedOutput, ...] | None
    n_keys: int


_NOTHING_ASKED = _Asked(None, 0)


class PlainTensors:
    """Reads requests of one tensor of numbers in JSON, without parameters, for a graph of one input."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._dtype = DTYPES[spec.datatype]
        self._asked: dict[bytes, _Asked] = {}

    @classmethod
    def of(cls, signature: Signature) -> PlainTensors | None:
        """None for a graph of several inputs, or of one that JSON numbers don't fill."""
        if len(signature.inputs) != 1 or DTYPES[signature.inputs[0].datatype].kind not in _ELEMENTS:
            return None
        return cls(signature.inputs[0])

    def decode(self, text: bytes) -> tuple[InferRequest, Array] | None:
        """The request, its inputs left out, and the tensor, which has the datatype and a shape that the graph takes."""
        begins = _DATA.search(text)
        # A backslash may hide a key or a NUL.
        if begins is None or b"\\" in text:
            return None
        depth = begins[1].count(b"[")
        long: Array | None = None
        if depth == 1 and len(text) >= MIN_BYTES and self._dtype.char in "fd":
            text, long = self._cut_out(text, begins.end() - 1)
        try:
            request = _decoder(self._dtype.kind, depth)(text)
            array = self._array(request.inputs[0], depth) if long is None else self._shaped(request.inputs[0], long)
            asked = _NOTHING_ASKED if request.outputs is msgspec.UNSET else self._read_outputs(bytes(request.outputs))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRequest):
            return None
        n_keys = 5 + asked.n_keys + (request.id is not msgspec.UNSET)
        if array is None or (len(text) <= KEYS_CHECKED_BYTES and text.count(b":") != n_keys):
            return None
        return InferRequest(request.id or "", {}, (), asked.outputs, False), array

    def _read_outputs(self, text: bytes) -> _Asked:
        """What a client asks for, which is the same in most of its requests, and then the same object here."""
        known = self._asked.get(text)
        if known is not None:
            return known
        given = _decode_outputs(text)
        asked = _Asked(read_outputs(given) if given else None, 1 + count_output_keys(given or ()))
        if len(text) <= _REMEMBERED_BYTES:
            if len(self._asked) >= _MAX_REMEMBERED:
                self._asked.clear()
            self._asked[text] = asked
        return asked

    def _cut_out(self, text: bytes, at: int) -> tuple[bytes, Array | None]:
        """The request without the numbers that begin `at`, and these; the request as it is where they aren't plain."""
        end = text.find(b"]", at) + 1
        rest = text[:at] + b"[]" + text[end:]
        if not end or rest.count(b'"data"') != 1:
            return text, None
        array = read_floats(text[at:end], self._dtype)
        return (text, None) if array is None else (rest, array)

    def _shaped(self, tensor: Any, array: Array) -> Array | None:
        if tensor.data or not self._is_asked_for(tensor) or array.size != math.prod(tensor.shape) or not array.size:
            return None
        return array.reshape(tensor.shape)

    def _is_asked_for(self, tensor: Any) -> bool:
        spec = self._spec
        return tensor.name == spec.name and tensor.datatype == spec.datatype and _fits(tensor.shape, spec.shape)

    def _array(self, tensor: Any, depth: int) -> Array | None:
        shape, values = tensor.shape, tensor.data
        if not self._is_asked_for(tensor):
            return None
        if depth > 1:
            values, extents = flattened(values, depth, "data")
            if [size for size in extents if size != 1] != [size for size in shape if size != 1]:
                return None
        if not values or len(values) != math.prod(shape):
            return None
        try:
            return np.ndarray(shape, self._dtype, struct.pack(layout(len(values), self._dtype), *values))
        except (struct.error, OverflowError):
            return None


def _fits(shape: list[int], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, needed in zip(shape, wanted, strict=True):  # noqa: SIM110 - a generator costs more than the rest of it
        if needed not in {-1, size}:
            return False
    return True


class InferAnswers:
    """Writes the answers of one version; what they share is written once."""

    def __init__(self, model: str, version: int, outputs: Sequence[TensorSpec]) -> None:
        self._head = _encode({"model_name": model, "model_version": str(version)})[:-1]
        self._opening = self._head + _OUTPUTS
        self._datatypes = {spec.name: spec.datatype for spec in outputs}
        self._starts = {
            spec.name: _encode({"name": spec.name, "datatype": spec.datatype})[:-1] + b',"shape":' for spec in outputs
        }
        self._shaped: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = all(DTYPES[spec.datatype].kind in _ELEMENTS and spec.datatype != "BF16" for spec in outputs)

    def encode(self, request: InferRequest, names: Sequence[str], arrays: Sequence[Array]) -> Encoded | None:
        """The answer with the outputs `names`, the request's if it names any; None when one is text or a ranking."""
        asked, binary = request.outputs, request.binary_default
        if not self._numbers or (asked and any(one.classification for one in asked)):
            return None
        text = self._head + b',"id":' + _encode(request.id) + _OUTPUTS if request.id else self._opening
        blobs: list[bytes | memoryview] = []
        for at, (name, array) in enumerate(zip(names, arrays, strict=True)):
            if at:
                text += b","
            shape = array.shape
            begun = self._shaped.get((name, shape)) or self._begin(name, shape)
            if asked[at].binary if asked else binary:
                blobs.append(_bytes(array, self._datatypes[name]))
                text += b'%b,"parameters":{"binary_data_size":%d}}' % (begun, len(blobs[-1]))
            else:
                text += b'%b,"data":%b}' % (begun, flat_numbers(array))
        text += b"]}"
        if not blobs:
            return Encoded([text], None, len(text))
        size = sum(map(len, blobs))
        return Encoded([text, *blobs], len(text) if size else None, len(text) + size)

    def _begin(self, name: str, shape: tuple[int, ...]) -> bytes:
        """An output's name, datatype and shape, kept for the next answer with this shape."""
        if len(self._shaped) >= _MAX_REMEMBERED:
            self._shaped.clear()
        begun = self._shaped[name, shape] = self._starts[name] + _encode(shape)
        return begun


def _bytes(array: Array, datatype: str) -> bytes | memoryview:
    # Half precision is no format that a memoryview casts.
    if array.dtype == DTYPES[datatype] and array.flags.c_contiguous and array.size and array.dtype.char not in "e?":
        return array.data.cast("B")
    return binary_bytes(array, datatype)
