"""Tiny ONNX models made on the spot, so that a test can tell versions apart by their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def scale_model(factor: float) -> bytes:
    """y = factor * x, over any number of rows of three FP32 numbers."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    return _serialize(graph)


def endless_model() -> bytes:
    """A valid model that never ends when `go` is true: y = x after an unbounded loop while go."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["again"]), helper.make_node("Identity", ["carried"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["go"], ["condition"]),
            helper.make_node("Loop", ["", "condition", "x"], ["y"], body=body),
        ],
        "endless",
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, [1]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return _serialize(graph)


def slow_model(products: int = 4) -> bytes:
    """Takes some tens of milliseconds, whatever the one number that it is given."""
    weights = np.full((512, 512), 1 / 512, np.float32)
    nodes = [helper.make_node("Mul", ["x", "w"], ["a0"])]
    nodes += [helper.make_node("MatMul", [f"a{turn}", "w"], [f"a{turn + 1}"]) for turn in range(products)]
    nodes += [helper.make_node("ReduceMax", [f"a{products}"], ["y"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(weights, "w")],
    )
    return _serialize(graph)


def unknown_operator_model() -> bytes:
    """Well-formed, with an operator that no runtime here has."""
    graph = helper.make_graph(
        [helper.make_node("Teleport", ["x"], ["y"], domain="somewhere.else")],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return _serialize(graph, helper.make_opsetid("somewhere.else", 1))


def external_data_model(location: str) -> bytes:
    """A model whose weights are said to lie at `location`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [tensor],
    )
    return _serialize(graph)


def _serialize(graph: onnx.GraphProto, *opsets: onnx.OperatorSetIdProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), *opsets])
    model.ir_version = 10
    return model.SerializeToString()


def write_package(directory: Path, model: bytes, spec: str = "") -> Path:
    """A package directory with this model and, if given, this seaway.yaml."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(model)
    if spec:
        (directory / "seaway.yaml").write_text(spec)
    return directory
