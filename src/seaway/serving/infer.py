"""The Open Inference Protocol's tensors against a model's signature: names, datatypes, shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.inputs.arrays import check_finite, check_shape
from seaway.inputs.base import Array, Feeds, check_rows, shown
from seaway.types import Signature, TensorSpec
from seaway.wire.oip import InferRequest, InferTensor, decode_infer
from seaway.wire.plain import PlainTensors
from seaway.wire.skeletons import Skeletons

MAX_REMEMBERED = 64
"""Requests of different shape of which a model remembers how they are laid out."""
_REMEMBERED_BYTES = 4096


class Tensors(msgspec.Struct, frozen=True, gc=False):
    """A request of the protocol as the graph takes it."""

    feeds: Feeds
    rows: int
    names: tuple[str, ...]
    """Graph outputs to compute."""
    request: InferRequest
    """Without its inputs, which are in `feeds`."""


class _Layout(msgspec.Struct, frozen=True, gc=False):
    """What the JSON of a binary request says. A client sends it again and again, with other bytes after it."""

    places: tuple[tuple[str, str, np.dtype[Any], tuple[int, ...], int], ...]
    """Name, datatype, numpy's type, shape and first byte of each input."""
    n_bytes: int
    rows: int
    names: tuple[str, ...]
    request: InferRequest


class _Same(msgspec.Struct, frozen=True, gc=False):
    """What requests share that differ in their numbers only."""

    rows: int
    names: tuple[str, ...]
    request: InferRequest


class InferReader:
    """Reads the protocol's requests for one version. Shared by all engine threads."""

    def __init__(self, signature: Signature, *, allow_nonfinite: bool, limit: int | None) -> None:
        self._signature = signature
        self._allow_nonfinite = allow_nonfinite
        self._limit = limit
        self._raw_spec = signature.inputs[0] if len(signature.inputs) == 1 else None
        self._plain = PlainTensors.of(signature)
        self._skeletons: Skeletons[_Same] = Skeletons(len(signature.inputs))
        self._layouts: dict[bytes, _Layout] = {}
        self._batchable = signature.batchable
        self._all_names = tuple(spec.name for spec in signature.outputs)
        self._input_name = signature.inputs[0].name if signature.inputs else ""
        # The outputs of the last request that was read, and their names. One tuple, so that threads see both or none.
        self._asked: tuple[Any, tuple[str, ...]] = (None, self._all_names)

    def read(self, body: bytes | memoryview, header_length: int | None) -> Tensors:
        """Raises InvalidRequest naming what is wrong, NotSupported for shared memory."""
        if header_length is None:
            text = bytes(body)
            known = self._skeletons.read(text)
            if known is not None:
                feeds, same = known
                return Tensors(feeds, same.rows, same.names, same.request)
            read = self._plain_json(text) or self._any(text, None)
            self._remember_json(text, read)
            return read
        if not 0 < header_length <= min(len(body), _REMEMBERED_BYTES):
            return self._any(body, header_length)
        head = bytes(body[:header_length])
        layout = self._layouts.get(head)
        if layout is not None and layout.n_bytes == len(body):
            return self._laid_out(layout, body)
        read = self._any(body, header_length)
        self._remember(head, read, len(body))
        return read

    def _any(self, body: bytes | memoryview, header_length: int | None) -> Tensors:
        signature = self._signature
        request = decode_infer(body, header_length=header_length, raw_spec=self._raw_spec)
        feeds = input_tensors(request, signature, allow_nonfinite=self._allow_nonfinite)
        rows = count_rows(feeds, signature)
        check_rows(rows, self._limit)
        return Tensors(feeds, rows, output_names(request, signature), request)

    def _plain_json(self, text: bytes) -> Tensors | None:
        """A request of one tensor in JSON, whose numbers are finite as all in JSON are; None for any other."""
        plain = None if self._plain is None else self._plain.decode(text)
        if plain is None:
            return None
        request, array = plain
        rows = len(array) if self._batchable else 1
        check_rows(rows, self._limit)
        asked, names = self._asked
        if request.outputs is not asked:
            # A client asks for the same outputs again and again, and `decode` then gives the same object.
            names = output_names(request, self._signature) if request.outputs else self._all_names
            self._asked = request.outputs, names
        return Tensors({self._input_name: array}, rows, names, request)

    def _remember_json(self, text: bytes, read: Tensors) -> None:
        """Keep what a request says beside its numbers; an id is of one request, nobody sends that again."""
        tensors = [(tensor.name, tensor.array) for tensor in read.request.inputs] or [*read.feeds.items()]
        if not read.request.id:
            request = msgspec.structs.replace(read.request, inputs=())
            self._skeletons.remember(text, tensors, _Same(read.rows, read.names, request))

    def _remember(self, head: bytes, read: Tensors, n_bytes: int) -> None:
        """Keep how a request is laid out that has been found right, unless there is more to it than plain bytes."""
        places, at = [], len(head)
        for tensor in read.request.inputs:
            array = tensor.array
            # Text and truth values are checked byte by byte. An id is of one request: nobody sends that again.
            if array.dtype.kind not in "fiu" or read.request.id:
                return
            places.append((tensor.name, tensor.datatype, array.dtype, array.shape, at))
            at += array.nbytes
        if at != n_bytes:
            return  # some of it came as JSON
        if len(self._layouts) >= MAX_REMEMBERED:
            self._layouts.clear()
        request = msgspec.structs.replace(read.request, inputs=())
        self._layouts[head] = _Layout(tuple(places), n_bytes, read.rows, read.names, request)

    def _laid_out(self, layout: _Layout, body: bytes | memoryview) -> Tensors:
        feeds = {}
        for name, datatype, dtype, shape, at in layout.places:
            array: Array = np.ndarray(shape, dtype, body, at)
            if not array.flags.aligned:
                array = array.copy()
            if not self._allow_nonfinite:
                check_finite(array, where=_called(name), datatype=datatype)
            feeds[name] = array
        return Tensors(feeds, layout.rows, layout.names, layout.request)


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
    where = _called(spec.name)
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(f"{where} is of datatype {shown(tensor.datatype)}; the model takes {spec.datatype}.")
    array = tensor.array
    check_shape(array.shape, spec, where=where)
    if spec.datatype == "BYTES":
        try:
            return _map(array, bytes.decode)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{where} holds bytes that are not UTF-8 text; the graph takes strings.") from error
    # A tensor that starts at an odd byte of the body would be read unaligned by native code.
    array = array if array.flags.aligned and array.flags.c_contiguous else array.copy(order="C")
    if not allow_nonfinite:
        check_finite(array, where=where, datatype=spec.datatype)
    return array


def _map(array: Array, change: Callable[[Any], Any]) -> Array:
    changed: Array = np.empty(array.size, dtype=np.object_)
    changed[:] = [change(item) for item in array.reshape(-1)]
    shaped: Array = changed.reshape(array.shape)
    return shaped


def _called(name: str) -> str:
    return f"The input {name!r}"


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
