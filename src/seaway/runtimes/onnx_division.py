"""Divisions by which a request can end the process that runs an ONNX graph.

The lowest 32 or 64 bit number divided by -1 doesn't fit; processors trap, and ONNX Runtime's Div and Mod (1.31) die of
SIGFPE, where they answer a division by 0 with an error. That leaves them harmless with a divisor that the graph holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from seaway.runtimes.onnx_wire import BYTES, VARINT, fields

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_VALUE = 1, 5, 11, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION = 2, 8, 14
_UNKNOWN, _FLOAT, _INT32, _INT64 = 0, 1, 6, 7
_TRAPS = frozenset({_INT32, _INT64})
"""Of smaller and unsigned numbers no quotient is too large for the register in which it is computed."""
_LIKE_FIRST = frozenset(
    """
    Abs Acos Acosh Add Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Compress Concat Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace Det Div Dropout Einsum Elu Erf Exp Expand Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax
    LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg PRelu Pad Pow RNN
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round Scatter ScatterElements ScatterND Selu Shrink
    Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample
    com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.FusedConv com.microsoft.FusedMatMul
    com.microsoft.Gelu com.microsoft.QuickGelu com.microsoft.SkipLayerNormalization
    """.split()  # noqa: SIM905 - a hundred quotes
)
"""Whose first output has the type of the first input."""
_LIKE_INPUT = {"CastLike": 1, "Where": 1, "DequantizeLinear": 1, "OneHot": 2}
"""Whose output has the type of another input than the first."""
_FIXED = {
    "Shape": (_INT64,), "Size": (_INT64,), "ArgMax": (_INT64,), "ArgMin": (_INT64,), "NonZero": (_INT64,),
    "MatMulInteger": (_INT32,), "ConvInteger": (_INT32,), "TfIdfVectorizer": (_FLOAT,),
    "com.microsoft.DynamicQuantizeMatMul": (_FLOAT,), "com.microsoft.QAttention": (_FLOAT,),
    "ai.onnx.ml.FeatureVectorizer": (_FLOAT,), "ai.onnx.ml.LinearRegressor": (_FLOAT,),
    "ai.onnx.ml.Normalizer": (_FLOAT,), "ai.onnx.ml.OneHotEncoder": (_FLOAT,), "ai.onnx.ml.SVMRegressor": (_FLOAT,),
    "ai.onnx.ml.Scaler": (_FLOAT,), "ai.onnx.ml.LinearClassifier": (_UNKNOWN, _FLOAT),
    "ai.onnx.ml.SVMClassifier": (_UNKNOWN, _FLOAT), "ai.onnx.ml.TreeEnsembleClassifier": (_UNKNOWN, _FLOAT),
    "ai.onnx.ml.TreeEnsembleRegressor": (_FLOAT,),
}  # fmt: skip
_ATTRIBUTE_TYPES = {b"value_int": _INT64, b"value_ints": _INT64, b"value_float": _FLOAT, b"value_floats": _FLOAT}
_MINUS_ONE = b"\xff" * 4
"""In every way in which a file holds it; other negative numbers have this, too."""


def division_by_input(model: memoryview) -> str:
    """The operator that may divide whole numbers by -1 if a request says so; empty: there is none.

    A division is harmless where one of its inputs is known not to be whole, or where it divides by a constant. Types go
    from node to node, which stand in the order in which they run; whatever isn't known here counts as whole. So does
    everything in a model with functions of its own, which may mean anything. Raises ValueError, also for a file that
    says something twice: its readers differ in which they believe.
    """
    graphs = [value for part, value in _parts(model) if part == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("it has more than one graph.")
    functions = any(part == _MODEL_FUNCTIONS for part, _ in _parts(model))
    return _Graph(graphs[0], functions=functions).division()


class _Graph:
    """A graph, node by node."""

    def __init__(self, graph: memoryview, *, functions: bool) -> None:
        self._functions = functions
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
                self._define(_text(value, 1), _number(_message(_message(value, 2), 1), 1))

    def _define(self, name: bytes, kind: int) -> None:
        """What has a name twice has no known type unless both are the same, and is no constant."""
        self._constants.discard(name)
        self._types[name] = kind if self._types.get(name, kind) == kind else _UNKNOWN

    def division(self) -> str:
        for node in self._nodes:
            parts = list(_parts(node))
            operator, domain = _text(node, _NODE_OPERATOR).decode(), _text(node, _NODE_DOMAIN).decode()
            if domain not in {"", "ai.onnx"}:
                operator = f"{domain}.{operator}"
            inputs = [bytes(value) for part, value in parts if part == _NODE_INPUT]
            outputs = [bytes(value) for part, value in parts if part == _NODE_OUTPUT]
            if operator in {"Div", "Mod"} and self._traps(inputs):
                return operator
            attributes = [value for part, value in parts if part == _NODE_ATTRIBUTE]
            self._define_outputs(operator, inputs, attributes, outputs)
        # Any operator may be a function, and what is divided in there isn't looked at.
        return "in a function" if self._functions else ""

    def _traps(self, inputs: list[bytes]) -> bool:
        if self._functions:
            return True
        harmless = any(self._types.get(name, _UNKNOWN) not in {_UNKNOWN, *_TRAPS} for name in inputs)
        return not harmless and not (len(inputs) > 1 and inputs[1] in self._constants)

    def _define_outputs(
        self, operator: str, inputs: list[bytes], attributes: list[memoryview], outputs: list[bytes]
    ) -> None:
        first = self._types.get(inputs[0], _UNKNOWN) if inputs else _UNKNOWN
        kinds: tuple[int, ...] = ()
        if operator in _FIXED:
            kinds = _FIXED[operator]
        elif operator in _LIKE_FIRST:
            kinds = (first,) * (len(outputs) if operator == "Split" else 1)
        elif operator in _LIKE_INPUT:
            place = _LIKE_INPUT[operator]
            kinds = (self._types.get(inputs[place], _UNKNOWN) if len(inputs) > place else _UNKNOWN,)
        elif operator == "Cast":
            kinds = (self._attribute_type(attributes),)
        elif operator == "ConstantOfShape":
            kinds = (self._attribute_type(attributes) if attributes else _FLOAT,)
        elif operator == "Constant" and len(attributes) == len(outputs) == 1:
            self._add_from_attribute(outputs[0], attributes[0])
            return
        for place, output in enumerate(outputs):
            self._define(output, kinds[place] if place < len(kinds) else _UNKNOWN)

    @staticmethod
    def _attribute_type(attributes: list[memoryview]) -> int:
        """What Cast and ConstantOfShape say."""
        said = [one for one in attributes if _text(one, 1) in {b"to", b"value"}]
        if len(said) != 1:
            return _UNKNOWN
        return _number(said[0], 3) if _text(said[0], 1) == b"to" else _number(_message(said[0], 5), _TENSOR_TYPE)

    def _add_from_attribute(self, output: bytes, attribute: memoryview) -> None:
        name = _text(attribute, 1)
        if name == b"value":
            self._add_constant(output, _message(attribute, 5))
            return
        known = output in self._types
        self._define(output, _ATTRIBUTE_TYPES.get(name, _UNKNOWN))
        if not known and name in _ATTRIBUTE_TYPES and _MINUS_ONE not in bytes(attribute):
            self._constants.add(output)

    def _add_constant(self, name: bytes, tensor: memoryview) -> None:
        kind = _number(tensor, _TENSOR_TYPE)
        known = name in self._types
        self._define(name, kind)
        # What a file of its own holds is not looked at. Floats never matter, and may be a gigabyte.
        if not known and kind in _TRAPS and not _has(tensor, _TENSOR_LOCATION) and _MINUS_ONE not in bytes(tensor):
            self._constants.add(name)


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Texts and messages in a message."""
    for number, wire, _, begin, end in fields(message):
        if wire == BYTES:
            yield number, message[begin:end]


def _message(message: memoryview, wanted: int) -> memoryview:
    """The one message or text of this number; empty: there is none. Raises ValueError for two."""
    found = [value for number, value in _parts(message) if number == wanted]
    if len(found) > 1:
        raise ValueError("it says something twice.")
    return found[0] if found else message[:0]


def _text(message: memoryview, wanted: int) -> bytes:
    return bytes(_message(message, wanted))


def _number(message: memoryview, wanted: int) -> int:
    """A number below 128, as types are; 0: there is none, or another one. Raises ValueError for two."""
    found = [(begin, end) for number, wire, _, begin, end in fields(message) if number == wanted and wire == VARINT]
    if len(found) > 1:
        raise ValueError("it says something twice.")
    return message[found[0][0]] if found and found[0][1] - found[0][0] == 1 else 0


def _has(message: memoryview, wanted: int) -> bool:
    return any(number == wanted for number, _, _, _, _ in fields(message))
