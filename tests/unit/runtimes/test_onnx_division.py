"""Divisions of whole numbers by which a request could end the process: found in a graph, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

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
