"""Divisions of whole numbers by which a request could end the process: found in a graph, and only those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from seaway.errors import InvalidPackage
from seaway.runtimes.onnx_graph import operators
from support import graphs
from support.tiny import scale_model

FLOAT, INT64, INT32, INT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8
Nodes = list[tuple[str, list[str], list[str], dict[str, Any]]]


def obstacle(path: Path, nodes: Nodes, kind: int = INT64, **weights: Any) -> str:
    """Of a graph with the inputs a and b."""
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    content = graphs.model(nodes, [("a", kind, ["n", 1]), ("b", kind, ["n", 1])], [("y", kind, ["n", 1])], arrays)
    (path / "model.onnx").write_bytes(content)
    return operators(path / "model.onnx").obstacle


def cast(source: str, gives: str, kind: int) -> tuple[str, list[str], list[str], dict[str, Any]]:
    return ("Cast", [source], [gives], {"to": kind})


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("kind", [INT64, INT32])
def test_a_division_by_what_a_request_says_is_an_obstacle_and_named(operator: str, kind: int, tmp_path: Path) -> None:
    said = obstacle(tmp_path, [(operator, ["a", "b"], ["y"], {})], kind)
    assert f"by what a request may say ({operator})" in said


@pytest.mark.parametrize(
    "nodes",
    [
        [cast("a", "c", INT64), cast("b", "d", INT64), ("Div", ["c", "d"], ["e"], {}), cast("e", "y", FLOAT)],
        [cast("a", "c", INT64), ("Add", ["c", "c"], ["d"], {}), ("Mod", ["c", "d"], ["e"], {}), cast("e", "y", FLOAT)],
    ],
    ids=["cast", "computed"],
)
def test_numbers_that_become_whole_on_the_way_count_too(nodes: Nodes, tmp_path: Path) -> None:
    assert obstacle(tmp_path, nodes, FLOAT)


FLOATS = [cast("a", "c", FLOAT), cast("b", "d", FLOAT), ("Div", ["c", "d"], ["e"], {}), cast("e", "y", INT64)]


@pytest.mark.parametrize(
    ("kind", "nodes", "weights"),
    [
        (FLOAT, [("Div", ["a", "b"], ["y"], {})], {}),
        (INT8, [("Div", ["a", "b"], ["y"], {})], {}),
        (INT64, [("Div", ["a", "seven"], ["y"], {})], {"seven": np.int64(7)}),
        (INT64, [("Constant", [], ["two"], {"value_int": 2}), ("Mod", ["a", "two"], ["y"], {})], {}),
        (INT64, FLOATS, {}),
    ],
    ids=["floats", "bytes", "by a weight", "by a constant", "of what becomes floats"],
)  # fmt: skip
def test_harmless_divisions_are_none(kind: int, nodes: Nodes, weights: dict[str, Any], tmp_path: Path) -> None:
    assert obstacle(tmp_path, nodes, kind, **weights) == ""


@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_of_minus_one_is_as_bad_as_a_request_however_it_is_kept(raw: bool, tmp_path: Path) -> None:
    minus_one = numpy_helper.from_array(np.array([-1]), "w") if raw else helper.make_tensor("w", INT64, [1], [-1])
    tensors = [helper.make_tensor_value_info(name, INT64, [1]) for name in ("a", "y")]
    graph = helper.make_graph([helper.make_node("Div", ["a", "w"], ["y"])], "g", tensors[:1], tensors[1:], [minus_one])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert operators(tmp_path / "model.onnx").obstacle


def test_a_graph_without_divisions_has_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(scale_model(2.0))
    assert operators(tmp_path / "model.onnx").obstacle == ""


def whole_of(
    path: Path,
    nodes: list[Any],
    *,
    more: Sequence[Any] = (),
    functions: Sequence[Any] = (),
    weights: Sequence[Any] = (),
) -> str:
    """The obstacle of a graph with whole numbers a and b, floats f and further inputs."""
    inputs = [helper.make_tensor_value_info(name, INT64, ["n"]) for name in ("a", "b")]
    inputs.append(helper.make_tensor_value_info("f", FLOAT, ["n"]))
    output = helper.make_tensor_value_info("y", INT64, ["n"])
    graph = helper.make_graph(nodes, "g", [*inputs, *more], [output], list(weights))
    imports = [helper.make_opsetid(domain, 3 if domain == "ai.onnx.ml" else 17) for domain in ("", "ai.onnx.ml", "own")]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    (path / "model.onnx").write_bytes(model.SerializeToString())
    return operators(path / "model.onnx").obstacle


node = helper.make_node
LOOKED_UP = [
    node("LabelEncoder", ["f"], [name], domain="ai.onnx.ml", keys_floats=[7.0], values_int64s=[-1], default_int64=1)
    for name in ("p", "q")
]
DIVIDE = node("Div", ["p", "q"], ["y"])


@pytest.mark.parametrize(
    "nodes",
    [
        [node("TopK", ["f", "k"], ["v", "p"]), node("Add", ["p", "b"], ["q"]), DIVIDE],
        [node("Unique", ["f"], ["u", "p", "v", "q"]), DIVIDE],
        [*LOOKED_UP, DIVIDE],
        [node("NobodyKnows", ["f"], ["p"]), node("Identity", ["b"], ["q"]), DIVIDE],
        [node("Constant", [], ["p"], value_string="a"), node("Identity", ["b"], ["q"]), DIVIDE],
    ],
    ids=["second output", "further outputs", "another domain", "an unknown operator", "a constant of another kind"],
)
def test_what_is_not_known_to_be_no_whole_number_counts_as_one(nodes: list[Any], tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.array([1]), "k")]
    assert "by what a request may say (Div)" in whole_of(tmp_path, nodes, weights=weights)


def test_a_division_in_a_function_or_beside_one_is_an_obstacle(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("", 17)]
    divides = helper.make_function("own", "D", ["p", "q"], ["r"], [node("Div", ["p", "q"], ["r"])], imports)
    same = helper.make_function("own", "Same", ["p"], ["q"], [node("Identity", ["p"], ["q"])], imports)
    inside = [node("D", ["a", "b"], ["y"], domain="own")]
    beside = [node("Same", ["b"], ["q"], domain="own"), node("Div", ["a", "q"], ["y"])]
    assert whole_of(tmp_path, inside, functions=[divides])
    assert whole_of(tmp_path, beside, functions=[same])


@pytest.mark.parametrize("values", [(1, -1), (-1, 1), (2, 3)], ids=str)
def test_a_weight_that_is_there_twice_is_no_constant(values: tuple[int, int], tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.array([value]), "w") for value in values]
    assert whole_of(tmp_path, [node("Div", ["a", "w"], ["y"])], weights=weights)


def test_a_weight_that_a_request_may_replace_is_no_constant(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.array([2]), "w")]
    replaced = [helper.make_tensor_value_info("w", INT64, [1])]
    divided = [node("Div", ["a", "w"], ["y"])]
    assert whole_of(tmp_path, divided, weights=weights) == ""
    assert whole_of(tmp_path, divided, more=replaced, weights=weights)


def test_an_operator_that_a_node_says_twice_is_refused(tmp_path: Path) -> None:
    graphs_and_more = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", INT64, ["n"])])
    twice = b"\x22\x03Add" + node("Div", ["a", "b"], ["y"]).SerializeToString()
    graph = b"\x0a" + bytes([len(twice)]) + twice + graphs_and_more.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    with pytest.raises(InvalidPackage, match="it says something twice"):
        operators(tmp_path / "model.onnx")
