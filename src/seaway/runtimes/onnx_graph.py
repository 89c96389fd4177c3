"""Which operators an ONNX file has, read from its bytes alone: no onnx package, and no weight is touched.

A protobuf message is a series of fields, each a key (number and wire type) and a value. Only the fields on the way to
a node's operator are looked into, everything else is stepped over in the mapped file.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError

from seaway.errors import InvalidPackage
from seaway.runtimes.base import Operators
from seaway.runtimes.onnx_division import division_by_input
from seaway.runtimes.onnx_rows import across_samples

CONTROL_FLOW = frozenset({"Loop", "Scan", "If", "SequenceMap"})
"""Run a graph of their own, also where a file hides that graph."""
VALUE_SIZED = frozenset(
    {
        "AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "DFT", "Expand", "EyeLike",
        "GridSample", "HammingWindow", "HannWindow", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad",
        "RandomNormal", "RandomUniform", "Range", "Resize", "RoiAlign", "STFT", "SequenceConstruct", "SplitToSequence",
        "StringSplit", "Tile", "Upsample",
    }
)  # fmt: skip
"""May make more than they are given: how much depends on the values of an input and not on its size."""
ROUNDS = ("Quantize", "Integer", "QLinear", "QAttention", "QGemm", "QOrdered", "QMoE", "MatMulNBits")
"""In names of operators behind which the last bit of a number decides about a step: answers can differ by that step."""
ROUNDS_EXACTLY = frozenset({"Round", "Floor", "Ceil", "Sign", "Hardmax"})
_MAX_DEPTH = 100  # as protobuf itself

# Fields by message, from onnx.proto: number -> the message that it holds.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION = "model", "graph", "node", "attribute", "function"
_INSIDE = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {6: _GRAPH, 11: _GRAPH},
    _FUNCTION: {7: _NODE},
}
_OP_TYPE, _DOMAIN = 4, 7
_MAX_VARINT_BITS = 70
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Lists of numbers are one field a number (a forest has millions): stepped over at the speed of the regex engine.
_NUMBERS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f]|\x3d.{4})*+", re.DOTALL)


def rounds(operator: str) -> bool:
    """Whether an operator may make a visible step of the last bit of a number."""
    if operator in ROUNDS_EXACTLY:
        return True
    name = operator.rpartition(".")[2]
    return name != "DequantizeLinear" and any(part in name for part in ROUNDS)


def operators(path: Path) -> Operators:
    """The operators of the model in `path`. Raises InvalidPackage when it is no ONNX model."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InvalidPackage(f"{path.name!r} is not an ONNX model: it is empty.") from error
        with mapped:
            found = _Walk(mapped, path.name).operators()
    obstacle = _obstacle(path) if found.all & {"Div", "Mod"} else ""
    return replace(found, obstacle=obstacle, entangling=_entangling(path, found.all))


def _entangling(path: Path, names: frozenset[str]) -> frozenset[str] | None:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        across = across_samples(memoryview(mapped))
    except (IndexError, ValueError, DecodeError):
        return None
    return frozenset(across) | {name for name in names if rounds(name)}


def _obstacle(path: Path) -> str:
    with path.open("rb") as file:
        # Not closed before everything that looks into it is gone.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        operator = division_by_input(memoryview(mapped))
    except ValueError as error:
        raise InvalidPackage(f"{path.name!r} is not an ONNX model: {error}") from error
    if not operator:
        return ""
    return (
        f"Its graph divides whole numbers by what a request may say ({operator}), and the lowest of them divided by -1 "
        "ends the process that runs it"
    )


class _Walk:
    """One pass over a file. Messages wait in a list of their own, so that nothing nests on Python's stack."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self._all: set[str] = set()
        self._with_subgraphs: set[str] = set()

    def operators(self) -> Operators:
        # (kind, begin, end, depth, operator that the message is a part of)
        todo = [(_MODEL, 0, len(self._data), 0, "")]
        if not any(child == _GRAPH for child, _, _ in self._inside(*todo[0][:3])):
            self._refuse("it has no graph")
        while todo:
            kind, at, end, depth, owner = todo.pop()
            if depth > _MAX_DEPTH:
                self._refuse(f"its graphs are nested more than {_MAX_DEPTH} deep")
            inside = self._inside(kind, at, end)
            if kind == _NODE:
                owner = self._operator(at, end)
            elif kind == _ATTRIBUTE and inside:
                self._with_subgraphs.add(owner)
            todo += [(child, begin, stop, depth + 1, owner) for child, begin, stop in inside]
        flow = {operator for operator in self._all if operator.rpartition(".")[2] in CONTROL_FLOW}
        return Operators(
            frozenset(self._all), frozenset(self._with_subgraphs | flow), frozenset(self._all & VALUE_SIZED)
        )

    def _inside(self, kind: str, at: int, end: int) -> list[tuple[str, int, int]]:
        """The messages in a message that lead to operators."""
        wanted = _INSIDE[kind]
        found = []
        while at < end:
            number, wire, begin, at = self._field(at, end)
            if wire == _BYTES and number in wanted:
                found.append((wanted[number], begin, at))
            elif kind == _ATTRIBUTE and wire != _BYTES:
                matched = _NUMBERS.match(self._data, at, end)
                at = matched.end() if matched else at
        return found

    def _operator(self, at: int, end: int) -> str:
        """The operator of a node; noted."""
        texts = {_OP_TYPE: "", _DOMAIN: ""}
        while at < end:
            number, wire, begin, at = self._field(at, end)
            if wire == _BYTES and number in texts:
                texts[number] = self._data[begin:at].decode(errors="replace")
        domain = texts[_DOMAIN]
        name = texts[_OP_TYPE] if domain in {"", "ai.onnx"} else f"{domain}.{texts[_OP_TYPE]}"
        self._all.add(name)
        return name

    def _field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Number, wire type, and where the value begins and ends, of the field at `at`."""
        key, begin = self._varint(at, end)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            length, begin = self._varint(begin, end)
            stop = begin + length
        elif wire == _VARINT:
            _, stop = self._varint(begin, end)
        elif wire in {_FIXED32, _FIXED64}:
            stop = begin + (4 if wire == _FIXED32 else 8)
        else:
            self._refuse(f"byte {at} is no field")
        if number == 0 or stop > end:
            self._refuse(f"the field at byte {at} is cut off" if number else f"byte {at} is no field")
        return number, wire, begin, stop

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        byte = 0x80
        while byte >= 0x80:
            if at >= end or shift >= _MAX_VARINT_BITS:
                self._refuse(f"the number before byte {at} has no end")
            byte = self._data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
        return value, at

    def _refuse(self, problem: str) -> NoReturn:
        raise InvalidPackage(f"{self._name!r} is not an ONNX model: {problem}.")
