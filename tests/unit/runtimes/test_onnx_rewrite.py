"""Graphs that are rewritten compute what they did, and what only looks like a pattern stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.support import graphs

from seaway.errors import Unavailable
from seaway.packages import PackageSpec
from seaway.runtimes.onnx import OnnxRuntime, session_options
from seaway.runtimes.onnx_graph import operators
from seaway.runtimes.onnx_rewrite import RewrittenOnnx, open_rewritten

Array = np.ndarray[Any, Any]
Nodes = Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]]
SPEC = PackageSpec(model="model.onnx", runtime="onnx")
MICROSOFT = {"domain": "com.microsoft"}
NUMBERS = {name: np.array(value, np.float32) for name, value in (("three", 3), ("zero", 0), ("six", 6))}
SIXTH = {"sixth": np.array([1 / 6], np.float32)}
CHANCE = np.random.default_rng(1)
X = (CHANCE.standard_normal((3, 5, 8)) * 4).astype(np.float32)
NORM = {name: CHANCE.standard_normal(8).astype(np.float32) for name in ("scale", "shift", "bias")}


def write(directory: Path, model: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(model)
    return directory


def described(directory: Path, model: bytes) -> str:
    found = RewrittenOnnx().look(write(directory, model), SPEC)
    return found.what if found is not None else ""


def check_same(directory: Path, model: bytes, feeds: dict[str, Array]) -> None:
    package = write(directory, model)
    exported = OnnxRuntime().load(package, SPEC, threads=1)
    rewritten = RewrittenOnnx().load(package, SPEC, threads=1)
    assert rewritten.signature == exported.signature
    names = [output.name for output in exported.signature.outputs]
    before, after = exported.run(feeds, names, None), rewritten.run(feeds, names, None)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def graph(nodes: Nodes, weights: dict[str, Array], *, shape: Sequence[int | str] = ("n", "t", 8), **more: Any) -> bytes:
    return graphs.model(nodes, [("x", graphs.FLOAT, shape)], [("y", graphs.FLOAT, None)], weights, **more)


SWISHES: dict[str, Nodes] = {
    "the product divided": [
        ("Add", ["x", "three"], ["t"], {}), ("Clip", ["t", "zero", "six"], ["c"], {}),
        ("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "six"], ["y"], {}),
    ],
    "everything the other way round": [
        ("Add", ["three", "x"], ["t"], {}), ("Clip", ["t", "zero", "six"], ["c"], {}),
        ("Mul", ["c", "x"], ["p"], {}), ("Mul", ["sixth", "p"], ["y"], {}),
    ],
    "the gate divided": [
        ("Add", ["x", "three"], ["t"], {}), ("Clip", ["t", "zero", "six"], ["c"], {}),
        ("Div", ["c", "six"], ["g"], {}), ("Mul", ["g", "x"], ["y"], {}),
    ],
    "the gate multiplied": [
        ("Add", ["x", "three"], ["t"], {}), ("Clip", ["t", "zero", "six"], ["c"], {}),
        ("Mul", ["c", "sixth"], ["g"], {}), ("Mul", ["x", "g"], ["y"], {}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("nodes", SWISHES.values(), ids=SWISHES)
def test_a_hard_swish_is_found_however_it_is_written(tmp_path: Path, nodes: Nodes) -> None:
    model = graph(nodes, NUMBERS | SIXTH)
    assert described(tmp_path / "m", model) == "1 hard swish"
    check_same(tmp_path / "m", model, {"x": X})


def test_bounds_may_be_attributes_and_constants_may_be_nodes(tmp_path: Path) -> None:
    three = ("Constant", [], ["three"], {"value": numpy_helper.from_array(np.array([3], np.float32))})
    nodes = [
        three, ("Add", ["x", "three"], ["t"], {}), ("Clip", ["t"], ["c"], {"min": 0.0, "max": 6.0}),
        ("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "six"], ["y"], {}),
    ]  # fmt: skip
    model = graph(nodes, {"six": NUMBERS["six"]}, opset=10)
    assert described(tmp_path / "m", model) == "1 hard swish"
    check_same(tmp_path / "m", model, {"x": X})


def test_many_in_a_row_are_all_found(tmp_path: Path) -> None:
    model = graphs.hard_swishes(30, ("n", "t", 8))
    assert described(tmp_path / "m", model) == "30 hard swish"
    check_same(tmp_path / "m", model, {"x": X})


USUAL = SWISHES["the product divided"]


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (USUAL, NUMBERS | {"six": np.array(5, np.float32)}),
        (USUAL, NUMBERS | {"three": np.array(2, np.float32)}),
        (USUAL, NUMBERS | {"zero": np.array(-1, np.float32)}),
        (USUAL, NUMBERS | {"three": np.full(8, 3, np.float32)}),
        ([*USUAL[:3], ("Div", ["p", "more"], ["y"], {})], NUMBERS | {"more": np.full((1, 1, 1, 1), 6, np.float32)}),
        ([*USUAL[:2], ("Mul", ["t", "c"], ["p"], {}), USUAL[3]], NUMBERS),
        ([*USUAL[:3], ("Div", ["six", "p"], ["y"], {})], NUMBERS),
        ([*USUAL[:2], ("Mul", ["x", "c"], ["p"], {}), ("Mul", ["p", "six"], ["y"], {})], NUMBERS),
        ([*USUAL[:3], ("Div", ["p", "six"], ["s"], {}), ("Add", ["s", "c"], ["y"], {})], NUMBERS),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_hard_swish_stays(tmp_path: Path, nodes: Nodes, weights: dict[str, Array]) -> None:
    model = graph(nodes, weights)
    assert described(tmp_path / "m", model) == ""
    check_same(tmp_path / "m", model, {"x": X})


def test_a_hard_swish_whose_parts_are_outputs_stays_and_all_of_a_graph_with_branches(tmp_path: Path) -> None:
    shown = graphs.model(
        USUAL, [("x", graphs.FLOAT, ["n", "t", 8])], [("y", graphs.FLOAT, None), ("c", graphs.FLOAT, None)], NUMBERS
    )
    assert described(tmp_path / "m", shown) == ""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    yes = ("Constant", [], ["yes"], {"value": numpy_helper.from_array(np.array(True))})
    choose = ("If", ["yes"], ["i"], {"then_branch": branch, "else_branch": branch})
    divide, add = ("Div", ["p", "six"], ["s"], {}), ("Add", ["s", "i"], ["y"], {})
    model = graph([*USUAL[:3], divide, yes, choose, add], NUMBERS)
    assert described(tmp_path / "m", model) == ""
    check_same(tmp_path / "m", model, {"x": X})


def test_a_constant_that_callers_may_replace_is_none(tmp_path: Path) -> None:
    inputs = [("x", graphs.FLOAT, ["n", "t", 8]), ("three", graphs.FLOAT, [])]
    model = graphs.model(USUAL, inputs, [("y", graphs.FLOAT, None)], NUMBERS)
    assert described(tmp_path / "m", model) == ""


@pytest.mark.parametrize("inputs", [["scale"], ["scale", "shift"], ["scale", "shift", "bias"], ["scale", "", "bias"]])
def test_a_fused_layer_norm_is_split(tmp_path: Path, inputs: list[str]) -> None:
    node = ("SkipLayerNormalization", ["x", "x", *inputs], ["y"], MICROSOFT | {"epsilon": 1e-3})
    model = graph([node], NORM)
    assert described(tmp_path / "m", model) == "1 SkipLayerNormalization"
    check_same(tmp_path / "m", model, {"x": X})


def test_the_sum_that_a_fused_layer_norm_gives_is_kept(tmp_path: Path) -> None:
    node = ("SkipLayerNormalization", ["x", "x", "scale", "shift", "bias"], ["n", "", "", "s"], MICROSOFT)
    model = graph([node, ("Add", ["n", "s"], ["y"], {})], NORM)
    assert described(tmp_path / "m", model) == "1 SkipLayerNormalization"
    check_same(tmp_path / "m", model, {"x": X})


def test_a_fused_layer_norm_whose_mean_is_wanted_and_one_of_an_old_opset_stay(tmp_path: Path) -> None:
    with_mean = ("SkipLayerNormalization", ["x", "x", "scale", "shift"], ["y", "mean"], MICROSOFT)
    assert described(tmp_path / "m", graph([with_mean], NORM)) == ""
    assert described(tmp_path / "m", graphs.skip_layer_norms(2, 8, opset=16)) == ""


def test_onnx_runtime_does_not_fuse_again_what_was_split(tmp_path: Path) -> None:
    nodes = [("Add", ["x", "x"], ["s"], {}), ("LayerNormalization", ["s", "scale", "shift"], ["y"], {})]
    for number, model in enumerate((graph(nodes, NORM), graphs.skip_layer_norms(2, 8))):
        package = write(tmp_path / f"m{number}", model)
        assert RewrittenOnnx().look(package, SPEC) is not None
        options = session_options(1)
        options.optimized_model_filepath = str(package / "optimized.onnx")
        open_rewritten(package, "model.onnx", options)
        found = operators(package / "optimized.onnx").all
        assert "LayerNormalization" in found
        assert "com.microsoft.SkipLayerNormalization" not in found


def test_names_that_the_graph_has_already_are_not_taken(tmp_path: Path) -> None:
    nodes = [("Identity", ["x"], ["y/sum"], {}), ("Identity", ["x"], ["y/biased"], {}),
             ("SkipLayerNormalization", ["y/sum", "y/biased", "scale", "shift", "bias"], ["y"], MICROSOFT)]  # fmt: skip
    check_same(tmp_path / "m", graph(nodes, NORM), {"x": X})


def test_what_a_file_says_beyond_its_nodes_is_kept(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph([*USUAL[:3], ("Div", ["p", "six"], ["y"], {})], NUMBERS))
    model.producer_name = "somebody"
    helper.set_model_props(model, {"author": "ada"})
    twice = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [twice], model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    package = write(tmp_path / "m", model.SerializeToString())
    session = open_rewritten(package, "model.onnx", session_options(1))
    meta = session.get_modelmeta()
    assert (meta.producer_name, meta.custom_metadata_map) == ("somebody", {"author": "ada"})
    check_same(tmp_path / "m", model.SerializeToString(), {"x": X})


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    model = onnx.load_from_string(graphs.skip_layer_norms(2, 512))
    onnx.save(model, tmp_path / "m" / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    package = tmp_path / "m"
    check_same(package, (package / "model.onnx").read_bytes(), {"x": np.ones((1, 2, 512), np.float32)})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([("Cast", ["s"], ["y"], {"to": TensorProto.INT64})], "Cast"),
        ([("Relu", ["s"], ["r"], {}), ("Floor", ["r"], ["y"], {})], "Floor"),
        ([("DynamicQuantizeLinear", ["s"], ["w", "st", "o"], {}), ("DequantizeLinear", ["w", "st", "o"], ["y"], {})],
         "DynamicQuantizeLinear"),
        ([("Own", ["s"], ["y"], {"domain": "somebodys"})], "Own"),
        ([("Cast", ["s"], ["d"], {"to": TensorProto.DOUBLE}), ("Softmax", ["d"], ["y"], {})], ""),
        ([("Shape", ["s"], ["a"], {}), ("Cast", ["a"], ["b"], {"to": graphs.FLOAT}), ("Floor", ["b"], ["y"], {})], ""),
        ([("Floor", ["x"], ["f"], {}), ("Add", ["s", "f"], ["y"], {})], ""),
    ],
)  # fmt: skip
def test_rounding_behind_what_was_rewritten_is_a_doubt(tmp_path: Path, more: Nodes, expected: str) -> None:
    model = graph([*USUAL[:3], ("Div", ["p", "six"], ["s"], {}), *more], NUMBERS)
    found = RewrittenOnnx().look(write(tmp_path / "m", model), SPEC)
    assert found is not None
    assert (f"rounds ({expected})" in found.doubt) is bool(expected)
    assert bool(found.doubt) is bool(expected)


def test_names_need_not_be_text(tmp_path: Path) -> None:
    for number, model in enumerate((graphs.skip_layer_norms(3, 8), graphs.hard_swishes(3, ("n", "t", 8)))):
        check_same(tmp_path / str(number), model.replace(b"h1", b"h\xe9").replace(b"h2", b"k\xe9"), {"x": X})


def test_weights_in_the_graph_are_passed_on_as_they_are(tmp_path: Path) -> None:
    large = CHANCE.standard_normal((8, 5000)).astype(np.float32)
    constant = ("Constant", [], ["more"], {"value": numpy_helper.from_array(large[:, :8].repeat(200, axis=1))})
    nodes = [*USUAL[:3], ("Div", ["p", "six"], ["s"], {}), ("MatMul", ["s", "large"], ["y"], {}),
             constant, ("MatMul", ["s", "more"], ["z"], {})]  # fmt: skip
    outputs = [("y", graphs.FLOAT, None), ("z", graphs.FLOAT, None)]
    model = graphs.model(nodes, [("x", graphs.FLOAT, ["n", "t", 8])], outputs, NUMBERS | {"large": large})
    assert described(tmp_path / "m", model) == "1 hard swish"
    check_same(tmp_path / "m", model, {"x": X})


def test_a_file_that_is_no_graph_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can't be read"):
        described(tmp_path / "m", b"\xff" * 100)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_chains_compute_what_they_did(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Of patterns, pieces of patterns and other operators, which take what any earlier one gave."""
    values, nodes = ["x"], []
    number = {"three": 3.0, "six": 6.0, "zero": 0.0}

    def node(operator: str, inputs: list[str], attributes: dict[str, Any] | None = None) -> str:
        output = f"v{len(nodes)}"
        nodes.append((operator, inputs, [output], attributes or {}))
        values.append(output)
        return output

    for _ in range(data.draw(st.integers(1, 5))):
        x, other = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        kind = data.draw(st.sampled_from(["swish", "gate", "norm", "add", "clip"]))
        if kind == "norm":
            node("SkipLayerNormalization", [x, other, "scale", "shift", "bias"], MICROSOFT)
        elif kind == "add":
            node("Add", [x, data.draw(st.sampled_from([other, *number]))])
        else:
            clipped = node("Clip", [node("Add", [x, data.draw(st.sampled_from(["three", "six"]))]), "zero", "six"])
            if kind == "gate":
                node("Mul", [data.draw(st.sampled_from([x, other])), node("Div", [clipped, "six"])])
            elif kind == "swish":
                node("Div", [node("Mul", [data.draw(st.sampled_from([x, other])), clipped]), "six"])
    # What is shown or not decides which parts may go.
    shown = data.draw(st.lists(st.sampled_from(values[1:]), unique=True, min_size=1, max_size=3))
    model = graphs.model(
        nodes, [("x", graphs.FLOAT, ["n", "t", 8])], [(name, graphs.FLOAT, None) for name in shown], NUMBERS | NORM
    )
    check_same(tmp_path_factory.mktemp("chain"), model, {"x": X})
