"""Operators out of an ONNX file's bytes, compared with what onnx.helper put in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from seaway.errors import InvalidPackage
from seaway.runtimes.onnx_graph import operators
from support.tiny import endless_model, scale_model

FLOAT = TensorProto.FLOAT
X = helper.make_tensor_value_info("x", FLOAT, [1])
Y = helper.make_tensor_value_info("y", FLOAT, [1])


def read(path: Path, content: bytes) -> tuple[set[str], set[str]]:
    file = path / "model.onnx"
    file.write_bytes(content)
    found = operators(file)
    return set(found.all), set(found.with_subgraphs)


def graph(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [X], [Y], list(weights))


def node(operator: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)


def by_onnx(message: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    """The same with the onnx package."""
    for one in message.node:
        yield one.op_type if one.domain in {"", "ai.onnx"} else f"{one.domain}.{one.op_type}"
        for attribute in one.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from by_onnx(inner)


def test_a_plain_graph_is_its_nodes(tmp_path: Path) -> None:
    assert read(tmp_path, scale_model(2.0)) == ({"Mul"}, set())


def test_a_loop_and_what_is_in_it_are_found(tmp_path: Path) -> None:
    assert read(tmp_path, endless_model()) == ({"Squeeze", "Loop", "Identity"}, {"Loop"})


def test_graphs_in_graphs_in_lists_of_graphs_are_found(tmp_path: Path) -> None:
    inner = graph(node("If", then_branch=graph(node("Tan")), else_branch=graph(node("Cos"))))
    model = helper.make_model(graph(node("Odd", "my.domain", bodies=[inner, graph(node("Sin"))]), node("Abs")))
    found = read(tmp_path, model.SerializeToString())
    assert found == ({"my.domain.Odd", "If", "Tan", "Cos", "Sin", "Abs"}, {"my.domain.Odd", "If"})


def test_operators_of_local_functions_are_found(tmp_path: Path) -> None:
    opset = [helper.make_opsetid("", 18)]
    branches = node("If", then_branch=graph(node("Neg")), else_branch=graph(node("Exp")))
    function = helper.make_function("mine", "Twice", ["x"], ["y"], [branches], opset)
    model = helper.make_model(graph(node("Twice", "mine")), functions=[function])
    assert read(tmp_path, model.SerializeToString()) == ({"mine.Twice", "If", "Neg", "Exp"}, {"If"})


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "SequenceMap"])
def test_control_flow_is_named_even_where_its_graph_is_missing(operator: str, tmp_path: Path) -> None:
    model = helper.make_model(graph(node(operator)))
    assert read(tmp_path, model.SerializeToString()) == ({operator}, {operator})


def test_attributes_of_every_kind_are_stepped_over(tmp_path: Path) -> None:
    plain = node(
        "Odd", "d", i=-1, f=0.5, s="text", ints=[*range(-500, 500), 2**62], floats=[0.25] * 1000,
        strings=["a"] * 300, t=numpy_helper.from_array(np.ones(3)), ts=[numpy_helper.from_array(np.ones(2))],
    )  # fmt: skip
    looped = node("Loop", ints=[1, 2, 3], body=graph(node("Sin")), floats=[1.0, 2.0])
    weights = numpy_helper.from_array(np.full(100_000, 0x0707, np.int64), "w")
    model = helper.make_model(graph(plain, looped, weights=(weights,)))
    assert read(tmp_path, model.SerializeToString()) == ({"d.Odd", "Loop", "Sin"}, {"Loop"})


NAMES = st.sampled_from(["Add", "Loop", "Conv", "Einsum"])
DOMAINS = st.sampled_from(["", "ai.onnx", "ai.onnx.ml"])
FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=9)
NODES = st.recursive(
    st.builds(node, NAMES, DOMAINS, ints=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9)),
    lambda inner: st.builds(node, NAMES, DOMAINS, body=inner.map(graph), floats=FLOATS),
    max_leaves=5,
)


@given(nodes=st.lists(NODES, max_size=4))
def test_whatever_onnx_writes_is_read_alike(
    nodes: list[onnx.NodeProto], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = helper.make_model(graph(*nodes))
    found, _ = read(tmp_path_factory.mktemp("model"), model.SerializeToString())
    assert found == set(by_onnx(model.graph))


def field(tag: int, content: bytes) -> bytes:
    """A protobuf field that holds a message."""
    size, rest = bytearray([tag]), len(content)
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*size, rest]) + content


def nested(depth: int) -> bytes:
    """A model whose graph has a node with an attribute that is a graph, and so on."""
    inner = b""
    for _ in range(depth):
        inner = field(0x0A, field(0x2A, field(0x32, inner)))
    return field(0x3A, inner)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an ONNX model at all",
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x3a\x05\x0a",
        b"\x3a\x02\x0a\x7f",
        b"\x3b\x3c",
        b"\x02\x00",
        b"\x08\x09",
        nested(300),
    ],
    ids=[
        "empty", "text", "zeros", "ones", "cut at the length", "endless length", "number without end",
        "cut in the graph", "node beyond its graph", "group", "field 0", "no graph", "300 graphs deep",
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"'model\.onnx' is not an ONNX model"):
        read(tmp_path, content)


@given(content=st.binary(max_size=300), cut=st.integers(0, 2000), flipped=st.integers(0, 2000))
def test_no_bytes_hang_or_crash_it(
    content: bytes, cut: int, flipped: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(endless_model())
    whole[flipped % len(whole)] ^= 0xFF
    for broken in (content, bytes(whole), bytes(whole[: cut % len(whole)])):
        try:
            read(tmp_path_factory.mktemp("model"), broken)
        except InvalidPackage:
            continue
