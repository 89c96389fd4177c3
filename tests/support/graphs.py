"""Small ONNX graphs for tests of input types, runtimes and the predictor. A name in a shape is a variable size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Tensor = tuple[str, int, Sequence[int | str] | None]
FLOAT, INT64, STRING, BOOL, UINT8 = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL, TensorProto.UINT8,
)  # fmt: skip


def model(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    opset: int = 18,
) -> bytes:
    """A serialized model of `(operator, inputs, outputs, attributes)` nodes, of which one may be a `domain`."""
    graph = helper.make_graph(
        [helper.make_node(operator, takes, gives, **attributes) for operator, takes, gives, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    domains = {attributes["domain"] for _, _, _, attributes in nodes if "domain" in attributes}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    built = helper.make_model(graph, opset_imports=opsets)
    built.ir_version = 10
    return built.SerializeToString()


def identity(kind: int = FLOAT, shape: Sequence[int | str] | None = ("n", 3)) -> bytes:
    """y = x."""
    return model([("Identity", ["x"], ["y"], {})], [("x", kind, shape)], [("y", kind, shape)])


def zipmap() -> bytes:
    """As skl2onnx exports a classifier of two classes by default: labels, and probabilities as a sequence of maps."""
    probabilities = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    ml = {"domain": "ai.onnx.ml"}
    graph = helper.make_graph(
        [
            helper.make_node("ArgMax", ["x"], ["output_label"], axis=1, keepdims=0),
            helper.make_node("ZipMap", ["x"], ["output_probability"], classlabels_int64s=[0, 1], **ml),
        ],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("output_label", INT64, ["n"]),
            helper.make_value_info("output_probability", probabilities),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def linear(weights: np.ndarray[Any, Any], batch: int | str = "n") -> bytes:
    """y = x @ weights."""
    width, height = weights.shape
    return model(
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", FLOAT, [batch, width])],
        [("y", FLOAT, [batch, height])],
        {"w": weights.astype(np.float32)},
    )


def repeated_product(weights: np.ndarray[Any, Any], times: int) -> bytes:
    """y = x @ weights @ weights ..., which takes as long as one likes."""
    size = len(weights)
    names = ["x", *(f"a{turn}" for turn in range(1, times)), "y"]
    nodes = [("MatMul", [before, "w"], [after], {}) for before, after in pairwise(names)]
    return model(nodes, [("x", FLOAT, ["n", size])], [("y", FLOAT, ["n", size])], {"w": weights.astype(np.float32)})


def embedding(vectors: np.ndarray[Any, Any], *, with_mask: bool = True) -> bytes:
    """states[n, t] = vectors[input_ids[n, t]]: what a text model does, without the model."""
    inputs: list[Tensor] = [("input_ids", INT64, ["n", "t"])]
    nodes: list[Any] = [("Gather", ["v", "input_ids"], ["states"], {})]
    if with_mask:
        inputs.append(("attention_mask", INT64, ["n", "t"]))
    return model(nodes, inputs, [("states", FLOAT, ["n", "t", vectors.shape[1]])], {"v": vectors.astype(np.float32)})


def two_inputs() -> bytes:
    """sum = a + b, difference = a - b; two numbers a sample."""
    return model(
        [("Add", ["a", "b"], ["sum"], {}), ("Sub", ["a", "b"], ["difference"], {})],
        [("a", FLOAT, ["n", 2]), ("b", FLOAT, ["n", 2])],
        [("sum", FLOAT, ["n", 2]), ("difference", FLOAT, ["n", 2])],
    )


def columns() -> bytes:
    """One input a column: age is a number, city a string; both come back."""
    return model(
        [("Identity", ["age"], ["years"], {}), ("Identity", ["city"], ["place"], {})],
        [("age", FLOAT, ["n", 1]), ("city", STRING, ["n", 1])],
        [("years", FLOAT, ["n", 1]), ("place", STRING, ["n", 1])],
    )


def hard_swishes(times: int, shape: Sequence[int | str] = ("n", 64)) -> bytes:
    """x · clip(x + 3, 0, 6) / 6, again and again, as exporters write it."""
    nodes: list[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]] = []
    names = ["x", *(f"h{turn}" for turn in range(1, times)), "y"]
    for number, (x, y) in enumerate(pairwise(names)):
        total, clipped, product = (f"{part}{number}" for part in ("total", "clipped", "product"))
        nodes += [
            ("Add", [x, "three"], [total], {}), ("Clip", [total, "zero", "six"], [clipped], {}),
            ("Mul", [x, clipped], [product], {}), ("Div", [product, "six"], [y], {}),
        ]  # fmt: skip
    numbers = {name: np.array(value, np.float32) for name, value in (("three", 3), ("zero", 0), ("six", 6))}
    return model(nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], numbers)


def skip_layer_norms(times: int, width: int, *, rounded: bool = False, **more: Any) -> bytes:
    """ONNX Runtime's fused sum and layer norm, again and again; `rounded`: of numbers that were quantized."""
    chance = np.random.default_rng(5)
    names = ["x", *(f"h{turn}" for turn in range(1, times)), "normed" if rounded else "y"]
    nodes: list[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]] = [
        (
            "SkipLayerNormalization",
            [a, "x", "scale", "shift", "bias"],
            [b],
            {"domain": "com.microsoft", "epsilon": 1e-6},
        )
        for a, b in pairwise(names)
    ]
    if rounded:
        nodes += [
            ("DynamicQuantizeLinear", ["normed"], ["whole", "step", "origin"], {}),
            ("DequantizeLinear", ["whole", "step", "origin"], ["y"], {}),
        ]
    weights = {name: chance.standard_normal(width).astype(np.float32) for name in ("scale", "shift", "bias")}
    return model(nodes, [("x", FLOAT, ["n", "t", width])], [("y", FLOAT, ["n", "t", width])], weights, **more)
