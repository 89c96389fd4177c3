"""Rewrites ONNX graphs into ones that ONNX Runtime runs faster, and that compute the same (ADR 12).

ONNX Runtime optimizes by rules, not by measurements: some operators that its rules make, or that exporters have made by
them, run slower on a CPU than those that they stand for, and some patterns it doesn't know. Each function in `RULES`
mends one of these; whether that pays and answers stay what they were is measured by whoever deploys the model.

Only nodes are read, by a schema with the fields that rules look at; all other bytes of the file, weights above all, are
passed on as they are.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from seaway.errors import Unavailable
from seaway.packages import PackageSpec
from seaway.runtimes.base import Rewrite
from seaway.runtimes.onnx import OnnxSession, open_session, read_signature, session_options
from seaway.runtimes.onnx_graph import CONTROL_FLOW, rounds
from seaway.runtimes.onnx_messages import SMALL_BYTES, classes, parse, parse_node
from seaway.runtimes.onnx_wire import BYTES, encode_number, field, fields

MAX_BYTES = 1 << 28
"""Of a graph's file, weights in it included: it is held in memory for a moment."""
_DISABLED = ("SkipLayerNormFusion",)
"""ONNX Runtime's rule that would undo `_split_skip_layer_norm`. The fused operator adds up its numbers one by one: 5 to
8 times slower than the two it stands for, with 64 to 1,024 numbers in a row (ONNX Runtime 1.31)."""
_SIZES = frozenset({b"Shape", b"Size"})
"""What they give doesn't depend on the values of what they are given."""
_ONNX = frozenset({b"", b"ai.onnx"})
_KNOWN = _ONNX | {b"ai.onnx.ml", b"com.microsoft"}
_FLOAT, _FLOATS = 1, frozenset({1, 10, 11, 16})
_LAYER_NORM_OPSET = 17

# Fields by message, from onnx.proto.
_MODEL_GRAPH, _MODEL_OPSETS = 7, 8
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS = 1, 5, 11, 12


class _Node(NamedTuple):
    """A node, and its bytes in the file; those of a new one are made in the end."""

    node: Any
    data: memoryview | None = None


class _Graph:
    """The top level of a graph while it is rewritten. Raises ValueError and DecodeError for what can't be read."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        graphs = [(start, begin, stop) for number, _, start, begin, stop in fields(data) if number == _MODEL_GRAPH]
        if len(graphs) != 1:
            raise ValueError("It doesn't have one graph.")
        ((self._start, begin, self._stop),) = graphs
        opsets = [parse("Opset", data[b:e]) for number, _, _, b, e in fields(data) if number == _MODEL_OPSETS]
        self.opset = max((one.version for one in opsets if one.domain in _ONNX), default=1)
        self.uses: Counter[bytes] = Counter()
        self.outputs: set[bytes] = set()
        self._constants: dict[bytes, Any] = {}
        self._nodes: list[_Node] = []
        self._rest: list[memoryview] = []
        self._swaps: dict[int, list[Any]] = {}
        replaceable: set[bytes] = set()
        graph = data[begin : self._stop]
        for number, wire, start, first, stop in fields(graph):
            value = graph[first:stop]
            if number == _GRAPH_NODES and wire == BYTES:
                self._nodes.append(_Node(parse_node(value), value))
                continue
            self._rest.append(graph[start:stop])
            if number == _GRAPH_TENSORS and len(value) <= SMALL_BYTES:
                tensor = parse("Tensor", value)
                self._constants[tensor.name] = tensor
            elif number == _GRAPH_INPUTS:
                replaceable.add(parse("Value", value).name)
            elif number == _GRAPH_OUTPUTS:
                self.uses[parse("Value", value).name] += 1
        for node in self.nodes:
            self.uses.update(node.input)
            if node.op_type == b"Constant" and not node.domain:
                tensors = [one.t for one in node.attribute if one.name == b"value"]
                self._constants.update(zip(node.output, tensors, strict=False))
        # What has the name of an input may be replaced by callers.
        self._constants = {name: one for name, one in self._constants.items() if name not in replaceable}
        self._names = set(self.uses) | replaceable | self._constants.keys()
        self.makers: dict[bytes, Any] = {}
        self.settle()

    @property
    def nodes(self) -> list[Any]:
        return [one.node for one in self._nodes]

    def has_graphs_inside(self) -> bool:
        """Whether an operator runs a graph of its own, which may take what others make."""
        flow = {name.encode() for name in CONTROL_FLOW}
        return any(
            node.op_type in flow or any(one.HasField("g") or one.graphs for one in node.attribute)
            for node in self.nodes
        )

    def number(self, name: bytes) -> float | None:
        """A constant that is one FP32 number and gives nothing it is combined with more dimensions."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != _FLOAT or list(tensor.dims) not in ([], [1]):
            return None
        if len(tensor.float_data) == 1:
            return float(tensor.float_data[0])
        return float(np.frombuffer(tensor.raw_data, "<f4")[0]) if len(tensor.raw_data) == 4 else None

    def maker(self, name: bytes, operator: bytes) -> Any | None:
        """The node that makes a tensor for one other node alone, if it is this operator."""
        node = self.makers.get(name)
        if node is None or node.op_type != operator or node.domain not in _ONNX or self.uses[name] != 1:
            return None
        return node if len(node.output) == 1 else None

    def fresh(self, name: bytes) -> bytes:
        """A name like this one that no tensor has."""
        while name in self._names:
            name += b"_"
        self._names.add(name)
        return name

    def replace(self, old: list[Any], new: list[Any]) -> None:
        """Put `new` where the last of `old` is, which all go, once the rule is through."""
        self._swaps |= {id(node): [] for node in old[:-1]} | {id(old[-1]): new}

    def settle(self) -> None:
        found = []
        for one in self._nodes:
            swapped = self._swaps.get(id(one.node))
            found += [one] if swapped is None else [_Node(node) for node in swapped]
        self._nodes = found
        self._swaps.clear()
        self.makers = {name: one.node for one in found for name in one.node.output}
        self._names |= self.makers.keys()

    def fused(self) -> list[Any]:
        """Nodes that ONNX Runtime's rule in `_DISABLED` may be about: layer norms, and roots that may be parts."""
        return [node for node in self.nodes if node.op_type in {b"LayerNormalization", b"Sqrt"}]

    def new(self) -> list[Any]:
        return [one.node for one in self._nodes if one.data is None]

    def doubt(self, changed: list[Any]) -> str:
        """Operators that round what comes from `changed` nodes, as a list; empty: none does."""
        takers: dict[bytes, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                takers.setdefault(name, []).append(node)
        todo, seen, found = list(changed), {id(node) for node in changed}, set()
        while todo:
            node = todo.pop()
            if _rounds(node):
                found.add(node.op_type.decode(errors="replace"))
            for taker in (one for name in node.output for one in takers.get(name, ())):
                if id(taker) not in seen and taker.op_type not in _SIZES:
                    seen.add(id(taker))
                    todo.append(taker)
        return ", ".join(sorted(found)[:3])

    def to_bytes(self) -> bytes:
        """The file as it is now."""
        parts: list[bytes | memoryview] = []
        for one in self._nodes:
            parts += field(_GRAPH_NODES, one.data if one.data is not None else one.node.SerializeToString())
        length = sum(map(len, parts)) + sum(map(len, self._rest))
        # A key and a length, whose value follows in pieces.
        key, _, _ = field(_MODEL_GRAPH, b"")
        return b"".join(
            [self._data[: self._start], key, encode_number(length), *parts, *self._rest, self._data[self._stop :]]
        )


def _rounds(node: Any) -> bool:
    if node.domain not in _KNOWN:
        return True
    if node.op_type in {b"Cast", b"CastLike"}:
        to = next((one.i for one in node.attribute if one.name == b"to"), None)
        return to not in _FLOATS
    return rounds(node.op_type.decode(errors="replace"))


def _node(operator: str, inputs: list[bytes], output: bytes, **attributes: float) -> Any:
    node = classes()["Node"](
        op_type=operator.encode(), input=inputs, output=[output], name=output + b"/" + operator.encode()
    )
    for name, value in attributes.items():
        if isinstance(value, int):
            node.attribute.add(name=name.encode(), i=value, type=2)
        else:
            node.attribute.add(name=name.encode(), f=value, type=1)
    return node


# --------------------------------------------------------------------------- the rules


def _split_skip_layer_norm(graph: _Graph) -> int:
    """`SkipLayerNormalization(x, skip, scale, shift, bias)` is the layer norm of a sum. Where a file has it, split it.

    What it computes: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
    """
    if graph.opset < _LAYER_NORM_OPSET:
        return 0
    found = 0
    for node in graph.nodes:
        if node.op_type != b"SkipLayerNormalization" or node.domain != b"com.microsoft":
            continue
        x, skip, scale, shift, bias = [*node.input, b"", b""][:5]
        output, *others = node.output
        total = others[2] if len(others) > 2 else b""
        if any(others[:2]):
            continue  # mean and deviation are wanted, too
        epsilon = next((one.f for one in node.attribute if one.name == b"epsilon"), 1e-12)
        new = []
        if bias:
            shifted = graph.fresh(output + b"/biased")
            new.append(_node("Add", [x, bias], shifted))
            x = shifted
        total = total or graph.fresh(output + b"/sum")
        new.append(_node("Add", [x, skip], total))
        inputs = [total, scale, shift] if shift else [total, scale]
        new.append(_node("LayerNormalization", inputs, output, axis=-1, epsilon=float(epsilon)))
        graph.replace([node], new)
        found += 1
    return found


def _join_hard_swish(graph: _Graph) -> int:
    """x · clip(x + 3, 0, 6) / 6, written out in four operators, is x times a hard sigmoid."""
    found = 0
    for last in graph.nodes:
        if last.domain not in _ONNX or last.op_type not in {b"Div", b"Mul"} or len(last.input) != 2:
            continue
        if matched := _hard_swish(graph, last):
            x, parts = matched
            (output,) = last.output
            gate = graph.fresh(output + b"/gate")
            new = [_node("HardSigmoid", [x], gate, alpha=1 / 6, beta=0.5), _node("Mul", [x, gate], output)]
            graph.replace([*parts, last], new)
            found += 1
    return found


def _hard_swish(graph: _Graph, last: Any) -> tuple[bytes, list[Any]] | None:
    """x, and the nodes before `last`: (x · clip) / 6, or x · (clip / 6)."""
    if (product := _sixth(graph, last, b"Mul")) is not None:
        for x, clipped in (product.input, product.input[::-1]):
            if gate := _clipped(graph, clipped, x):
                return x, [*gate, product]
    if last.op_type == b"Mul":
        for x, part in (last.input, last.input[::-1]):
            node = graph.maker(part, b"Div") or graph.maker(part, b"Mul")
            clip = _sixth(graph, node, b"Clip") if node is not None else None
            if clip is not None and (gate := _clipped(graph, clip.output[0], x)):
                return x, [*gate, node]
    return None


def _sixth(graph: _Graph, node: Any, operator: bytes) -> Any | None:
    """What made the tensor that `node` takes a sixth of, if it is this operator."""
    if node.op_type == b"Div":
        return graph.maker(node.input[0], operator) if graph.number(node.input[1]) == 6.0 else None
    for part, factor in (node.input, node.input[::-1]):
        value = graph.number(factor)
        if value is not None and np.float32(value) == np.float32(1 / 6):
            return graph.maker(part, operator)
    return None


def _clipped(graph: _Graph, name: bytes, x: bytes) -> list[Any] | None:
    """The two nodes that make clip(x + 3, 0, 6)."""
    clip = graph.maker(name, b"Clip")
    if clip is None:
        return None
    bounds = [graph.number(one) for one in clip.input[1:3]]
    if not bounds:
        given = {one.name: one.f for one in clip.attribute}
        bounds = [given.get(b"min"), given.get(b"max")]
    total = graph.maker(clip.input[0], b"Add")
    if bounds != [0.0, 6.0] or total is None:
        return None
    addends = list(total.input)
    if addends.count(x) != 1:
        return None
    addends.remove(x)
    return [total, clip] if graph.number(addends[0]) == 3.0 else None


RULES: dict[str, Callable[[_Graph], int]] = {
    "SkipLayerNormalization": _split_skip_layer_norm,
    "hard swish": _join_hard_swish,
}
"""By what they find; each rewrites a graph and says how often."""


# --------------------------------------------------------------------------- for those who deploy


class RewrittenOnnx:
    """Opens models with their graphs rewritten. On the CPU only."""

    def look(self, package: Path, spec: PackageSpec) -> Rewrite | None:
        graph, counts = _rewrite(_opened(package / (spec.model or "")))
        changed = [*graph.new(), *graph.fused()]
        if graph.has_graphs_inside() or not changed:
            return None
        what = " and ".join(f"{count} {name}" for name, count in counts.items() if count) or "layer norms"
        doubt = graph.doubt(changed)
        return Rewrite(
            what, f"its graph rounds ({doubt}), so that the last bit of a number may decide" if doubt else ""
        )

    def load(self, package: Path, spec: PackageSpec, *, threads: int) -> OnnxSession:
        session = open_rewritten(package, spec.model or "", session_options(threads))
        return OnnxSession(session, read_signature(session))


def open_rewritten(package: Path, model: str, options: Any) -> Any:
    """An `InferenceSession` of a file of `package` with its graph rewritten. Raises InvalidPackage, Unavailable."""
    rewritten = _rewrite(_opened(package / model))[0].to_bytes()
    folder = (package / model).parent
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return open_session(package, model, options, graph=rewritten, disabled=_DISABLED)


def _opened(path: Path) -> memoryview:
    if path.stat().st_size > MAX_BYTES:
        raise Unavailable(f"The graph's file is larger than {MAX_BYTES >> 20} MiB.")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _rewrite(data: memoryview) -> tuple[_Graph, dict[str, int]]:
    """The graph, rewritten, and how often each rule did so. Raises Unavailable."""
    try:
        graph = _Graph(data)
    except (DecodeError, ValueError) as error:
        raise Unavailable(f"The graph can't be read: {error}") from error
    counts: dict[str, int] = {}
    if graph.has_graphs_inside():
        return graph, counts
    for what, rule in RULES.items():
        counts[what] = rule(graph)
        graph.settle()
    return graph, counts
