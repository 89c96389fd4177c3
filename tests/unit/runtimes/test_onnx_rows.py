"""Which operators of a graph work across samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from seaway.runtimes.onnx_rows import across_samples
from support import graphs

CONSTANTS = {
    "zero": np.array([0]), "one": np.array([1]), "last": np.array([-1]), "both": np.array([0, 1]),
    "none": np.array([], np.int64),
    "first": np.array(0), "second": np.array(1), "table": np.ones((5, 2), np.float32), "scale": np.ones(2, np.float32),
    "second_last": np.array([-2]), "one_row": np.array([1, -1]), "any_rows": np.array([-1, 1]),
    "same_rows": np.array([0, 2]),
    "huge": np.ones((40, 40), np.float32),
}  # fmt: skip
X: Any = ("x", graphs.FLOAT, ("n", 2))
IDS: Any = ("ids", graphs.INT64, ("n", 3))


def across(*nodes: Any, opset: int = 18) -> set[str]:
    taken = {name for node in nodes for name in node[1]}
    constants = {name: value for name, value in CONSTANTS.items() if name in taken}
    inputs = [one for one in (X, IDS) if one[0] in taken]
    return across_samples(memoryview(graphs.model(nodes, inputs, [("y", graphs.FLOAT, None)], constants, opset=opset)))


@pytest.mark.parametrize(
    "node",
    [
        ("TopK", ["x", "one"], ["y", "at"], {"axis": 0, "notes": "n" * 5000}),
        ("Unsqueeze", ["x", "second_last"], ["y"], {}),
        ("Unsqueeze", ["x", "ids"], ["y"], {}),
        ("Reshape", ["x", "last"], ["y"], {}),
        ("ReduceMax", ["x"], ["y"], {}),
        ("ReduceMax", ["x", "none"], ["y"], {}),
        ("ReduceSum", ["x", "zero"], ["y"], {"keepdims": 0}),
        ("ReduceMean", ["x", "both"], ["y"], {}),
        ("ReduceL2", ["x"], ["y"], {"axes": [0]}),
        ("ReduceLogSumExp", ["x"], ["y"], {"axes": [1, 0]}),
        ("ReduceMin", ["x", "ids"], ["y"], {}),
        ("ArgMax", ["x"], ["y"], {}),
        ("ArgMin", ["x"], ["y"], {"axis": 0}),
        ("Softmax", ["x"], ["y"], {"axis": 0}),
        ("LayerNormalization", ["x", "scale"], ["y"], {"axis": 0}),
        ("TopK", ["x", "one"], ["y", "at"], {"axis": 0}),
        ("CumSum", ["x", "first"], ["y"], {}),
        ("CumSum", ["x", "ids"], ["y"], {}),
        ("Gather", ["x", "ids"], ["y"], {}),
        ("GatherElements", ["x", "ids"], ["y"], {}),
        ("GatherND", ["x", "ids"], ["y"], {}),
        ("ScatterElements", ["x", "ids", "x"], ["y"], {}),
        ("ScatterND", ["x", "ids", "x"], ["y"], {}),
        ("Concat", ["x", "x"], ["y"], {"axis": 0}),
        ("Split", ["x"], ["y", "z"], {"num_outputs": 2}),
        ("Flatten", ["x"], ["y"], {"axis": 0}),
        ("Compress", ["x", "ids"], ["y"], {}),
        ("NonZero", ["x"], ["y"], {}),
        ("Unique", ["x"], ["y"], {}),
        ("MeanVarianceNormalization", ["x"], ["y"], {}),
        ("BatchNormalization", ["x", "scale", "scale", "scale", "scale"], ["y", "m", "v"], {"training_mode": 1}),
        ("ReduceMax", ["huge", "x"], ["y"], {}),
        ("ReduceMax", ["x", "second_last"], ["y"], {}),
        ("Softmax", ["x"], ["y"], {"axis": -2}),
        ("Unsqueeze", ["x", "zero"], ["y"], {}),
        ("Reshape", ["x", "one_row"], ["y"], {}),
    ],
    ids=lambda node: f"{node[0]} {node[1]} {node[3]}",
)
def test_the_first_axis_all_axes_and_those_that_nobody_knows_are_found(node: Any) -> None:
    assert across(node) == {node[0]}


@pytest.mark.parametrize(
    "node",
    [
        ("ReduceMax", ["x", "one"], ["y"], {}),
        ("ReduceMax", ["x", "last"], ["y"], {}),
        ("ReduceMean", ["x"], ["y"], {"axes": [1]}),
        ("ArgMax", ["x"], ["y"], {"axis": 1}),
        ("Softmax", ["x"], ["y"], {}),
        ("Softmax", ["x"], ["y"], {"axis": -1}),
        ("CumSum", ["x", "second"], ["y"], {}),
        ("Gather", ["table", "ids"], ["y"], {}),
        ("Gather", ["huge", "ids"], ["y"], {}),
        ("Gather", ["x", "first"], ["y"], {"axis": 1}),
        ("GatherND", ["x", "ids"], ["y"], {"batch_dims": 1}),
        ("Concat", ["x", "x"], ["y"], {"axis": 1}),
        ("Flatten", ["x"], ["y"], {}),
        ("BatchNormalization", ["x", "scale", "scale", "scale", "scale"], ["y"], {}),
        ("MeanVarianceNormalization", ["x"], ["y"], {"axes": [1]}),
        ("ReduceMax", ["table"], ["y"], {}),
        ("MatMul", ["x", "table"], ["y"], {}),
        ("Unsqueeze", ["x", "one"], ["y"], {}),
        ("Reshape", ["x", "any_rows"], ["y"], {}),
        ("Reshape", ["x", "same_rows"], ["y"], {}),
    ],
    ids=lambda node: f"{node[0]} {node[1]} {node[3]}",
)
def test_other_axes_tables_and_constants_are_no_obstacle(node: Any) -> None:
    assert across(node) == set()


def test_what_follows_from_sizes_may_be_reduced_and_joined() -> None:
    sizes = [
        ("Shape", ["x"], ["s"], {}), ("Gather", ["s", "zero"], ["n"], {}),
        ("Concat", ["n", "last"], ["both_sizes"], {"axis": 0}),
        ("ReduceProd", ["both_sizes"], ["p"], {}), ("Reshape", ["x", "both_sizes"], ["y"], {}),
    ]  # fmt: skip
    assert across(*sizes) == set()


@pytest.mark.parametrize(
    "shape",
    [
        [("Concat", ["one", "n"], ["shape"], {"axis": 0})],
        [("Unsqueeze", ["second", "zero"], ["f"], {}), ("Concat", ["f", "n"], ["shape"], {"axis": 0})],
        [("Concat", ["one", "last"], ["shape"], {"axis": 0})],
        [("Identity", ["last"], ["shape"], {})],
    ],
    ids=["with what follows from sizes", "made of a single number", "of constants", "in a line"],
)
def test_a_shape_that_makes_one_of_all_samples_is_found_where_it_is_made_in_the_graph(shape: Any) -> None:
    sizes = [("Shape", ["x"], ["s"], {}), ("Gather", ["s", "zero"], ["n"], {})]
    assert across(*sizes, *shape, ("Reshape", ["x", "shape"], ["y"], {})) == {"Reshape"}


def test_numbers_that_double_with_each_node_are_not_followed() -> None:
    names = ["one_row", *(f"c{number}" for number in range(60))]
    doubled: Any = [("Concat", [a, a], [b], {"axis": 0}) for a, b in itertools.pairwise(names)]
    assert across(*doubled, ("Relu", ["x"], ["y"], {})) == set()


def test_axes_are_read_from_constants_inside_the_graph_too() -> None:
    from onnx import numpy_helper

    for value, expected in ((0, {"ReduceMax"}), (1, set())):
        for given in ({"value": numpy_helper.from_array(np.array([value]))}, {"value_ints": [value]}):
            constant = ("Constant", [], ["axes"], given)
            assert across(constant, ("ReduceMax", ["x", "axes"], ["y"], {})) == expected


def test_functions_of_a_models_own_may_mean_anything() -> None:
    import onnx
    from onnx import helper

    model = onnx.load_from_string(graphs.model([("Relu", ["x"], ["y"], {})], [X], [("y", graphs.FLOAT, None)]))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    assert across_samples(memoryview(model.SerializeToString())) == {"functions of its own"}
