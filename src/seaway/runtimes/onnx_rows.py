"""Which operators of an ONNX graph work across the samples of a run, or may: along the first axis, or along all.

What is found here is refused whatever a trial shows: a threshold that no trial passes hides the largest of all samples.
The converse doesn't hold: a graph may move its first axis elsewhere, and the trial has to find that out
(`seaway.serving.joint_runs`). Operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seaway.runtimes.onnx_messages import SMALL_BYTES, parse, parse_node
from seaway.runtimes.onnx_wire import BYTES, fields

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODES, _GRAPH_TENSORS, _TENSOR_NAME = 1, 5, 8
_INT64 = 7
_SIZES = frozenset({"Shape", "Size"})
_ALONG = {
    "Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1, "LayerNormalization": -1, "TopK": -1,
    "RMSNormalization": -1, "Flatten": 1, "Concat": None, "Split": 0, "ArgMax": 0, "ArgMin": 0, "Gather": 0,
    "GatherElements": 0, "ScatterElements": 0, "Scatter": 0, "Compress": None,
}  # fmt: skip
"""Operators that work along one axis, and which it is where the node doesn't say; None: all of them, flattened."""
_ACROSS = frozenset({"ScatterND", "Unique", "NonZero", "NonMaxSuppression", "ReverseSequence", "Det"})
"""May work along the first axis, as values or other attributes say."""
_MEAN_VARIANCE_AXES = (0, 2, 3)
_FEW = 64
"""Whole numbers that are followed; each further node could double them."""
_SAME_NUMBERS = frozenset({"Unsqueeze", "Squeeze", "Identity", "Cast"})


def across_samples(model: memoryview) -> set[str]:
    """Their names. Raises ValueError and DecodeError for what can't be read."""
    graphs = [
        model[begin:end] for number, wire, _, begin, end in fields(model) if (number, wire) == (_MODEL_GRAPH, BYTES)
    ]
    if len(graphs) != 1:
        raise ValueError("It doesn't have one graph.")
    if any(number == _MODEL_FUNCTIONS for number, _, _, _, _ in fields(model)):
        return {"functions of its own"}
    return _Graph(graphs[0]).across()


class _Graph:
    """A graph, node by node, which stand in the order in which they run."""

    def __init__(self, graph: memoryview) -> None:
        self._nodes: list[Any] = []
        self._numbers: dict[bytes, list[int]] = {}
        """Constants that hold a few whole numbers."""
        self._starts: dict[bytes, int] = {}
        """The first of several whole numbers, where the others aren't known."""
        self._fixed: set[bytes] = {b""}
        """Constants, and what follows from sizes alone: the same whatever the samples are like."""
        for number, wire, _, begin, end in fields(graph):
            value = graph[begin:end]
            if number == _GRAPH_NODES and wire == BYTES:
                self._nodes.append(parse_node(value, attributes=True))
            elif number == _GRAPH_TENSORS and wire == BYTES:
                if len(value) <= SMALL_BYTES:
                    tensor = parse("Tensor", value)
                    self._add(tensor.name, tensor)
                else:
                    self._fixed.update(
                        bytes(value[first:last]) for part, _, _, first, last in fields(value) if part == _TENSOR_NAME
                    )

    def _add(self, name: bytes, tensor: Any) -> None:
        self._fixed.add(name)
        if tensor.data_type == _INT64:
            raw = tensor.raw_data
            self._numbers[name] = list(tensor.int64_data) or np.frombuffer(raw[: len(raw) // 8 * 8], "<i8").tolist()

    def across(self) -> set[str]:
        found = set()
        for node in self._nodes:
            operator = node.op_type.decode(errors="replace")
            if operator == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == b"value_ints":
                        self._numbers[node.output[0]] = list(attribute.ints)
                    elif attribute.name == b"value":
                        self._add(node.output[0], attribute.t)
                self._fixed.update(node.output)
            elif operator in _SIZES or all(name in self._fixed for name in node.input):
                self._fixed.update(node.output)
                self._follow(node, operator)
            elif self._is_across(node, operator):
                found.add(operator)
        return found

    def _follow(self, node: Any, operator: str) -> None:
        """Note what is known of whole numbers that are made of others."""
        if not node.input or not node.output:
            return
        parts = [self._numbers.get(name) for name in node.input]
        first = parts[0]
        if first is None:
            return
        if operator in _SAME_NUMBERS:
            self._numbers[node.output[0]] = first
        elif operator == "Concat" and None not in parts and sum(map(len, filter(None, parts))) <= _FEW:
            self._numbers[node.output[0]] = [number for part in parts for number in part or ()]
        elif operator == "Concat" and first:
            self._starts[node.output[0]] = first[0]

    def _is_across(self, node: Any, operator: str) -> bool:
        if operator.startswith("Reduce") or operator == "MeanVarianceNormalization":
            axes = self._axes(node, operator)
            return axes is None or any(map(_may_be_first, axes))
        # All samples as one, or all numbers in a line: what these are followed by works across them.
        if operator == "Unsqueeze":
            axes = self._axes(node, operator)
            return axes is None or any(map(_may_be_first, axes))
        if operator == "Reshape":
            shape = self._axes(node, operator)
            if shape is None:
                return len(node.input) > 1 and self._starts.get(node.input[1], 0) > 0
            return shape[0] > 0 or list(shape) == [-1]
        if operator == "BatchNormalization":
            return bool(_number(node, b"training_mode", 0))
        if operator == "CumSum":
            axes = self._numbers.get(node.input[1]) if len(node.input) > 1 else None
            return not axes or any(map(_may_be_first, axes))
        if operator == "GatherND":
            return node.input[0] not in self._fixed and _number(node, b"batch_dims", 0) == 0
        if operator in {"Gather", "GatherElements"} and node.input[0] in self._fixed:
            return False  # a table in which samples are looked up
        if operator in _ALONG:
            axis = _number(node, b"axis", _ALONG[operator])
            return axis is None or _may_be_first(axis)
        return operator in _ACROSS

    def _axes(self, node: Any, operator: str) -> Sequence[int] | None:
        """Of a reduction: from an attribute or, since opset 13 or 18, an input; None: all, or nobody knows. Of Reshape,
        the sizes.
        """
        for attribute in node.attribute:
            if attribute.name == b"axes":
                return list(attribute.ints) or None
        if operator == "MeanVarianceNormalization":
            return _MEAN_VARIANCE_AXES
        if len(node.input) < 2 or not node.input[1]:
            return None
        return self._numbers.get(node.input[1]) or None


def _may_be_first(axis: int) -> bool:
    """Counted from behind, the axis before the last is the first of two (and the last that of one: a trial shows)."""
    return axis == 0 or axis < -1


def _number(node: Any, name: bytes, otherwise: int | None) -> int | None:
    found: list[int] = [attribute.i for attribute in node.attribute if attribute.name == name]
    return found[0] if found else otherwise
