"""Rewrites ONNX graphs into ones that ONNX Runtime runs faster, and that compute the same (ADR 12).

ONNX Runtime optimizes by rules, not by measurements: some operators that its rules make, or that exporters have made by
them, run slower on a CPU than those that they stand for, and some patterns it doesn't know. Each function in `RULES`
mends one of these in the top level of a graph; whether that pays and answers stay what they were is measured by whoever
deploys the model.

A file is read by a schema with the fields that rules look at. Protocol Buffers keep what a schema doesn't know, so
everything else is written as it was read: https://protobuf.dev/programming-guides/proto3/#unknowns.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from seaway.errors import Unavailable
from seaway.packages import PackageSpec
from seaway.runtimes.onnx import OnnxSession, open_session, read_signature, session_options

MAX_BYTES = 1 << 30
"""Of a graph's file: it is held in memory, a few times over for a moment."""
_DISABLED = ("SkipLayerNormFusion",)
"""ONNX Runtime's rule that would undo `_split_skip_layer_norm`. The fused operator adds up its numbers one by one: 5 to
8 times slower than the two it stands for, with 64 to 1,024 numbers in a row (ONNX Runtime 1.31)."""
_ROUNDING = ("Quantize", "Integer", "QLinear", "QAttention", "QGemm", "QOrdered", "MatMulNBits", "Round")
"""In names of operators behind which the last bit of a number decides about a step: answers can differ by that step."""
_FLOAT = 1
_LAYER_NORM_OPSET = 17


# --------------------------------------------------------------------------- what is read of a file


def _schema() -> Mapping[str, Any]:
    """A class for each message of onnx.proto with the fields that are looked at, by the numbers they have there."""
    kinds = descriptor_pb2.FieldDescriptorProto
    text, number, real, raw = kinds.TYPE_STRING, kinds.TYPE_INT64, kinds.TYPE_FLOAT, kinds.TYPE_BYTES
    # Of each field: its number, its type or message, and whether it is repeated.
    messages: dict[str, dict[str, tuple[int, int | str, bool]]] = {
        "Model": {"graph": (7, "Graph", False), "opset_import": (8, "Opset", True)},
        "Opset": {"domain": (1, text, False), "version": (2, number, False)},
        "Graph": {
            "node": (1, "Node", True), "initializer": (5, "Tensor", True), "input": (11, "Value", True),
            "output": (12, "Value", True),
        },
        "Value": {"name": (1, text, False)},
        "Node": {
            "input": (1, text, True), "output": (2, text, True), "name": (3, text, False), "op_type": (4, text, False),
            "attribute": (5, "Attribute", True), "domain": (7, text, False),
        },
        "Attribute": {
            "name": (1, text, False), "f": (2, real, False), "i": (3, number, False), "t": (5, "Tensor", False),
            "g": (6, "Graph", False), "graphs": (11, "Graph", True), "type": (20, number, False),
        },
        "Tensor": {
            "dims": (1, number, True), "data_type": (2, number, False), "float_data": (4, real, True),
            "name": (8, text, False), "raw_data": (9, raw, False),
        },
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="seaway/onnx.proto", package="seaway.onnx", syntax="proto2")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (at, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=at, label=label, type=kinds.TYPE_MESSAGE, type_name=f".seaway.onnx.{kind}"
                )
            else:
                message.field.add(name=field, number=at, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"seaway.onnx.{name}")) for name in messages
    }


class _Graph:
    """The top level of a graph while it is rewritten."""

    def __init__(self, model: Any) -> None:
        self.nodes: list[Any] = list(model.graph.node)
        self.opset = max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=1)
        self.makers: dict[str, Any] = {name: node for node in self.nodes for name in node.output}
        self.uses = Counter(_used(model.graph))
        self._swaps: dict[int, list[Any]] = {}
        self._constants: dict[str, Any] = {one.name: one for one in model.graph.initializer}
        # Callers may replace what has the name of an input, too.
        for value in model.graph.input:
            self._constants.pop(value.name, None)
        for node in self.nodes:
            if node.op_type == "Constant" and not node.domain:
                tensors = [one.t for one in node.attribute if one.name == "value"]
                self._constants.update(zip(node.output, tensors, strict=False))

    def number(self, name: str) -> float | None:
        """A constant that is one FP32 number and gives nothing it is combined with more dimensions."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != _FLOAT or list(tensor.dims) not in ([], [1]):
            return None
        if len(tensor.float_data) == 1:
            return float(tensor.float_data[0])
        return float(np.frombuffer(tensor.raw_data, "<f4")[0]) if len(tensor.raw_data) == 4 else None

    def maker(self, name: str, operator: str) -> Any | None:
        """The node that makes a tensor for one other node alone, if it is this operator."""
        node = self.makers.get(name)
        if node is None or node.op_type != operator or node.domain not in {"", "ai.onnx"} or self.uses[name] != 1:
            return None
        return node if len(node.output) == 1 else None

    def fresh(self, name: str) -> str:
        """A name like this one that no tensor has."""
        while name in self.makers or name in self.uses or name in self._constants:
            name += "_"
        self.uses[name] += 1
        return name

    def replace(self, old: list[Any], new: list[Any]) -> None:
        """Put `new` where the last of `old` is, which all go, once the rule is through."""
        self._swaps |= {id(node): [] for node in old[:-1]} | {id(old[-1]): new}

    def settle(self) -> None:
        self.nodes = [new for node in self.nodes for new in self._swaps.get(id(node), [node])]
        self.makers.update({name: node for node in self.nodes for name in node.output})
        self._swaps.clear()


def _used(graph: Any) -> Iterator[str]:
    """What the nodes of a graph take, those of the graphs inside it included, and what it gives."""
    todo = [graph]
    while todo:
        one = todo.pop()
        yield from (value.name for value in one.output)
        for node in one.node:
            yield from node.input
            for attribute in node.attribute:
                todo += [attribute.g] if attribute.HasField("g") else []
                todo += attribute.graphs


def _node(operator: str, inputs: list[str], output: str, **attributes: float) -> Any:
    node = _classes()["Node"](op_type=operator, input=inputs, output=[output], name=f"{output}/{operator}")
    for name, value in attributes.items():
        if isinstance(value, int):
            node.attribute.add(name=name, i=value, type=2)
        else:
            node.attribute.add(name=name, f=value, type=1)
    return node


@functools.cache
def _classes() -> Mapping[str, Any]:
    return _schema()


# --------------------------------------------------------------------------- the rules


def _split_skip_layer_norm(graph: _Graph) -> int:
    """`SkipLayerNormalization(x, skip, scale, shift, bias)` is the layer norm of a sum. Where a file has it, split it.

    What it computes: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
    """
    if graph.opset < _LAYER_NORM_OPSET:
        return 0
    found = 0
    for node in graph.nodes:
        if node.op_type != "SkipLayerNormalization" or node.domain != "com.microsoft":
            continue
        x, skip, scale, shift, bias = [*node.input, "", ""][:5]
        output, *others = node.output
        total = others[2] if len(others) > 2 else ""
        if any(others[:2]):
            continue  # mean and deviation are wanted, too
        epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-12)
        new = []
        if bias:
            shifted = graph.fresh(f"{output}/biased")
            new.append(_node("Add", [x, bias], shifted))
            x = shifted
        total = total or graph.fresh(f"{output}/sum")
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
        if last.domain not in {"", "ai.onnx"} or last.op_type not in {"Div", "Mul"} or len(last.input) != 2:
            continue
        if matched := _hard_swish(graph, last):
            x, parts = matched
            (output,) = last.output
            gate = graph.fresh(f"{output}/gate")
            new = [_node("HardSigmoid", [x], gate, alpha=1 / 6, beta=0.5), _node("Mul", [x, gate], output)]
            graph.replace([*parts, last], new)
            found += 1
    return found


def _hard_swish(graph: _Graph, last: Any) -> tuple[str, list[Any]] | None:
    """x, and the nodes before `last`: (x · clip) / 6, or x · (clip / 6)."""
    if (product := _sixth(graph, last, "Mul")) is not None:
        for x, clipped in (product.input, product.input[::-1]):
            if gate := _clipped(graph, clipped, x):
                return x, [*gate, product]
    if last.op_type == "Mul":
        for x, part in (last.input, last.input[::-1]):
            node = graph.maker(part, "Div") or graph.maker(part, "Mul")
            clip = _sixth(graph, node, "Clip") if node is not None else None
            if clip is not None and (gate := _clipped(graph, clip.output[0], x)):
                return x, [*gate, node]
    return None


def _sixth(graph: _Graph, node: Any, operator: str) -> Any | None:
    """What made the tensor that `node` takes a sixth of, if it is this operator."""
    if node.op_type == "Div":
        return graph.maker(node.input[0], operator) if graph.number(node.input[1]) == 6.0 else None
    for part, factor in (node.input, node.input[::-1]):
        value = graph.number(factor)
        if value is not None and np.float32(value) == np.float32(1 / 6):
            return graph.maker(part, operator)
    return None


def _clipped(graph: _Graph, name: str, x: str) -> list[Any] | None:
    """The two nodes that make clip(x + 3, 0, 6)."""
    clip = graph.maker(name, "Clip")
    if clip is None:
        return None
    bounds = [graph.number(one) for one in clip.input[1:3]]
    if not bounds:
        given = {one.name: one.f for one in clip.attribute}
        bounds = [given.get("min"), given.get("max")]
    total = graph.maker(clip.input[0], "Add")
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

    def why_uncertain(self, operators: frozenset[str]) -> str:
        rounding = sorted(one for one in operators if any(part in one for part in _ROUNDING))
        if not rounding:
            return ""
        return f"its graph rounds numbers ({', '.join(rounding[:3])}), so that the last bit of one decides about more"

    def describe(self, package: Path, spec: PackageSpec) -> str:
        model, counts = _rewrite(package / (spec.model or ""))
        found = [f"{count} {what}" for what, count in counts.items() if count]
        if not found and _may_fuse(model):
            found = ["layer norms"]
        return " and ".join(found)

    def load(self, package: Path, spec: PackageSpec, *, threads: int) -> OnnxSession:
        session = open_rewritten(package, spec.model or "", session_options(threads))
        return OnnxSession(session, read_signature(session))


def open_rewritten(package: Path, model: str, options: Any) -> Any:
    """An `InferenceSession` of a file of `package` with its graph rewritten. Raises InvalidPackage, Unavailable."""
    rewritten, _ = _rewrite(package / model)
    folder = (package / model).parent
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return open_session(package, model, options, graph=rewritten.SerializeToString(), disabled=_DISABLED)


def _rewrite(path: Path) -> tuple[Any, dict[str, int]]:
    """The model with its graph rewritten, and how often each rule did so. Raises Unavailable."""
    if path.stat().st_size > MAX_BYTES:
        raise Unavailable(f"The graph's file is larger than {MAX_BYTES >> 20} MiB.")
    model = _classes()["Model"]()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise Unavailable(f"The graph can't be read as Protocol Buffers: {error}") from error
    graph = _Graph(model)
    counts = {}
    for what, rule in RULES.items():
        counts[what] = rule(graph)
        graph.settle()
    if any(counts.values()):
        fresh = _classes()["Graph"](node=graph.nodes)
        del model.graph.node[:]
        model.graph.node.extend(fresh.node)
    return model, counts


def _may_fuse(model: Any) -> bool:
    """Whether ONNX Runtime's rule that `_DISABLED` names may find something: a layer norm, or its parts."""
    names = {node.op_type for node in model.graph.node}
    return "LayerNormalization" in names or {"ReduceMean", "Sqrt", "Div"} <= names
