"""Divisions by which a request can end the process that runs an ONNX graph.

The lowest 32 or 64 bit number divided by -1 doesn't fit; processors trap, and ONNX Runtime's Div and Mod (1.31) die of
SIGFPE, where they answer a division by 0 with an error. That leaves them harmless with a divisor that the graph holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from seaway.runtimes.onnx_wire import BYTES, VARINT, fields

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_VALUE = 7, 1, 5, 11, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION = 2, 8, 14
_FLOAT, _INT32, _INT64 = 1, 6, 7
_TRAPS = frozenset({_INT32, _INT64})
"""Of smaller and unsigned numbers no quotient is too large for the register in which it is computed."""
_LIKE_INPUT = {"CastLike": 1, "Where": 1, "DequantizeLinear": 1, "OneHot": 2}
"""Whose outputs have the type of another input than the first."""
_FIXED = {"Shape": _INT64, "Size": _INT64, "ArgMax": _INT64, "ArgMin": _INT64, "NonZero": _INT64,
          "MatMulInteger": _INT32, "ConvInteger": _INT32, "TfIdfVectorizer": _FLOAT}  # fmt: skip
_SAID = frozenset({"Cast", "Constant", "ConstantOfShape"})
"""Whose outputs have the type that an attribute says."""
_ATTRIBUTE_TYPES = {b"value_int": _INT64, b"value_ints": _INT64, b"value_float": _FLOAT, b"value_floats": _FLOAT}
_MINUS_ONE = b"\xff" * 4
"""In every way in which a file holds it; other negative numbers have this, too."""


def division_by_input(model: memoryview) -> str:
    """The operator that may divide whole numbers by -1 if a request says so; empty: none was found.

    Only the graph itself is looked at: others run in no gateway anyway. Types go from node to node, which stand in the
    order in which they run; one that isn't known here is taken for harmless. Raises ValueError.
    """
    for part, graph in _parts(model):
        if part == _MODEL_GRAPH:
            return _Graph(graph).division()
    return ""


class _Graph:
    """A graph, node by node."""

    def __init__(self, graph: memoryview) -> None:
        self._types: dict[bytes, int] = {}
        self._constants: set[bytes] = set()
        """Without -1."""
        self._nodes: list[memoryview] = []
        for part, value in _parts(graph):
            if part == _GRAPH_NODE:
                self._nodes.append(value)
            elif part == _GRAPH_INITIALIZER:
                self._add_constant(_text(value, _TENSOR_NAME), value)
            elif part in {_GRAPH_INPUT, _GRAPH_VALUE}:
                self._types.setdefault(_text(value, 1), _number(_message(_message(value, 2), 1), 1))

    def division(self) -> str:
        for node in self._nodes:
            parts = list(_parts(node))
            operator, domain = (
                next((bytes(value).decode(errors="replace") for part, value in parts if part == wanted), "")
                for wanted in (_NODE_OPERATOR, _NODE_DOMAIN)
            )
            inputs = [bytes(value) for part, value in parts if part == _NODE_INPUT]
            outputs = [bytes(value) for part, value in parts if part == _NODE_OUTPUT]
            if domain not in {"", "ai.onnx"}:
                continue
            if operator in {"Div", "Mod"} and self._traps(inputs):
                return operator
            attributes = [value for part, value in parts if part == _NODE_ATTRIBUTE]
            kind = self._type_of(operator, inputs, attributes, outputs)
            for output in outputs:
                self._types.setdefault(output, kind)
        return ""

    def _traps(self, inputs: list[bytes]) -> bool:
        whole = any(self._types.get(name, 0) in _TRAPS for name in inputs)
        return whole and not (len(inputs) > 1 and inputs[1] in self._constants)

    def _type_of(self, operator: str, inputs: list[bytes], attributes: list[memoryview], outputs: list[bytes]) -> int:
        if operator in _FIXED:
            return _FIXED[operator]
        if operator not in _SAID:
            place = _LIKE_INPUT.get(operator, 0)
            return self._types.get(inputs[place], 0) if len(inputs) > place else 0
        for attribute in attributes:
            name = _text(attribute, 1)
            if operator == "Cast" and name == b"to":
                return _number(attribute, 3)
            if name == b"value":
                tensor = _message(attribute, 5)
                if operator == "Constant" and outputs:
                    self._add_constant(outputs[0], tensor)
                return _number(tensor, _TENSOR_TYPE)
            if operator == "Constant" and name in _ATTRIBUTE_TYPES:
                if outputs and _MINUS_ONE not in bytes(attribute):
                    self._constants.add(outputs[0])
                return _ATTRIBUTE_TYPES[name]
        return _FLOAT

    def _add_constant(self, name: bytes, tensor: memoryview) -> None:
        kind = _number(tensor, _TENSOR_TYPE)
        self._types[name] = kind
        # What a file of its own holds is not looked at. Floats never matter, and may be a gigabyte.
        if kind in _TRAPS and not _number(tensor, _TENSOR_LOCATION) and _MINUS_ONE not in bytes(tensor):
            self._constants.add(name)


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Texts and messages in a message."""
    for number, wire, _, begin, end in fields(message):
        if wire == BYTES:
            yield number, message[begin:end]


def _message(message: memoryview, wanted: int) -> memoryview:
    return next((value for number, value in _parts(message) if number == wanted), message[:0])


def _text(message: memoryview, wanted: int) -> bytes:
    return bytes(_message(message, wanted))


def _number(message: memoryview, wanted: int) -> int:
    """A number below 128, as types are; 0: there is none."""
    found = (message[begin] for number, wire, _, begin, _ in fields(message) if number == wanted and wire == VARINT)
    return next(found, 0)
