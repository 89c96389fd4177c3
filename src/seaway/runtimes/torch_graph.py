"""Runs the graph of a `torch.export` archive: a list of calls of torch's own operators, and nothing else.

The graph is data. A target is looked up in a list of names, an argument is a number, a dtype or an earlier result: no
expression is evaluated and no text compiled. What it computes is what torch's eager mode computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from seaway.errors import InvalidPackage
from seaway.runtimes import torch_operators
from seaway.runtimes.torch_archive import Archive
from seaway.runtimes.torch_device import DATATYPES, Stop
from seaway.runtimes.torch_operators import ARITHMETIC, IN_EVAL_MODE, IN_PLACE, PLAINLY, refuse
from seaway.types import Json, Signature, TensorSpec

MAX_NODES = 1_000_000
_SYMBOL = re.compile(r"Symbol\('(?P<quoted>\w+)'.*\)|(?P<plain>\w+)")
_TEXT = re.compile(r"[\w,.> -]{0,200}")
_KEYWORD = 2
_WEIGHTS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""torch's types by the numbers that archives give them."""
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_LAYOUTS = {7: torch.strided}
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip


class Slot(int):
    """The number of an earlier result."""


Outputs = tuple[Slot | tuple[Slot, ...] | None, ...]
"""Where a call's results go: each its place, several for a list of tensors, none for what nobody reads."""


class Step(NamedTuple):
    """One call, ready to be made."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Outputs
    done: tuple[Slot, ...] = ()
    """Results that nobody reads after this step."""


class Graph:
    """A checked graph with its weights on the device."""

    def __init__(
        self, archive: Archive, weights: Mapping[str, Tensor], place: tuple[torch.device, torch.dtype]
    ) -> None:
        """`weights`: of this archive, by their names in it. Raises InvalidPackage for what isn't to be run."""
        read = _Reader(weights, place)
        try:
            self.signature = read.signature(archive.graph_module)
            steps = [step for node in read.nodes if (step := read.step(node)) is not None]
            self._outputs = {name: read.slots[tensor] for name, tensor in read.outputs.items()}
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
            raise InvalidPackage("The graph of the archive is damaged; export it again.") from error
        self._steps = _with_ends(steps, keep={*read.fixed, *self._outputs.values()})
        self._inputs, self._fixed, self._size = read.inputs, read.fixed, len(read.slots)
        self.ranges = read.ranges
        """Inputs that index a table, and how many rows it has."""
        self.axes = read.axes
        """Input axes that must be equal, by their symbol."""
        self.limits = {
            symbol: limits["max_val"]
            for symbol, limits in archive.range_constraints.items()
            if isinstance(limits, dict) and isinstance(limits.get("max_val"), int)
        }
        """The largest size of a symbol, where there is one."""

    def run(self, tensors: Mapping[str, Tensor], outputs: Sequence[str], stop: Stop) -> list[Tensor]:
        """The named outputs; `stop` is asked between any two operators."""
        results: list[Any] = [None] * self._size
        for slot, weight in self._fixed.items():
            results[slot] = weight
        for name, slot in self._inputs.items():
            results[slot] = tensors[name]
        for step in self._steps:
            stop.check()
            args = [_value(arg, results) for arg in step.args]
            made = step.call(*args, **{name: _value(arg, results) for name, arg in step.kwargs.items()})
            _keep(made, step.outputs, results)
            for slot in step.done:
                results[slot] = None
        return [results[self._outputs[name]] for name in outputs]


class _Reader:
    """Makes steps of an archive's nodes, one after another, so that nothing is read before it is made."""

    def __init__(self, weights: Mapping[str, Tensor], place: tuple[torch.device, torch.dtype]) -> None:
        self._weights = weights
        self._device, self._dtype = place
        self._fresh: set[Slot] = set()
        self.slots: dict[str, Slot] = {}
        self.fixed: dict[Slot, Tensor] = {}
        self.inputs: dict[str, Slot] = {}
        self.outputs: dict[str, str] = {}
        self.ranges: dict[str, int] = {}
        self.axes: dict[str, list[tuple[str, int]]] = {}
        self.nodes: list[Json] = []

    # ------------------------------------------------------------------ what goes in and comes out

    def signature(self, module: Json) -> Signature:
        graph, specs = module["graph"], module["signature"]
        self.nodes = graph["nodes"]
        if len(self.nodes) > MAX_NODES:
            refuse(f"it has {len(self.nodes)} nodes; {MAX_NODES} are allowed")
        inputs = [self._input(spec, graph["tensor_values"]) for spec in specs["input_specs"]]
        made = [_output(spec) for spec in specs["output_specs"]]
        names = _output_names(module)
        names = names if len(names) == len(made) else _numbered(len(made))
        self.outputs = dict(zip(names, made, strict=True))
        outputs = [
            _described(graph["tensor_values"][tensor], name, floats="FP32") for name, tensor in self.outputs.items()
        ]
        return Signature(tuple(spec for spec in inputs if spec is not None), tuple(outputs))

    def _input(self, spec: Json, described: Json) -> TensorSpec | None:
        """A tensor that a caller gives; None for a weight."""
        ((kind, content),) = spec.items()
        if kind == "user_input":
            ((form, value),) = content["arg"].items()
            if form != "as_tensor":
                refuse("it has an input that is no tensor; export it with tensors alone")
            name = value["name"]
            self.inputs[name] = self._place(name)
            for axis, size in enumerate(described[name]["sizes"]):
                if "as_expr" in size:
                    self.axes.setdefault(_symbol(size), []).append((name, axis))
            return _described(described[name], name)
        if kind not in _WEIGHTS:
            refuse(f"it has an input of the kind {str(kind)[:40]!r}; export it with tensors alone")
        name = content[_WEIGHTS[kind]]
        if name not in self._weights:
            refuse(f"it lacks the weights {str(name)[:80]!r}")
        self.fixed[self._place(content["arg"]["name"])] = self._weights[name]
        return None

    # ------------------------------------------------------------------ calls

    def step(self, node: Json) -> Step | None:
        """A node as a call; None for one that only checks."""
        target = node["target"]
        if not isinstance(target, str):
            raise TypeError(target)
        call = ARITHMETIC.get(target) or torch_operators.find(target)
        if call is None:
            return None
        args, kwargs = [], {}
        for argument in node["inputs"]:
            value = self.argument(argument["arg"])
            if argument.get("kind") == _KEYWORD:
                kwargs[str(argument["name"])] = value
            else:
                args.append(value)
        if target not in ARITHMETIC:
            self._check(call, args, kwargs)
        outputs = self._results(node["outputs"])
        if target not in ARITHMETIC and torch_operators.makes_new(call):
            self._fresh.update(_slots_in(outputs))
        if target in ARITHMETIC:
            return Step(call, tuple(args), kwargs, outputs)
        run = torch_operators.guarded(call)
        if run is call and not self._is_checked(call, args):
            run = torch_operators.in_range(call)
        return Step(run, tuple(args), kwargs, outputs)

    def _is_checked(self, call: Any, args: list[Any]) -> bool:
        """Whether a request's own tensor is the index, whose range `ranges` has."""
        if torch_operators.name_of(call) != "embedding" or len(args) < 2 or args[0] not in self.fixed:
            return False
        return any(args[1] is slot for slot in self.inputs.values())

    def _check(self, call: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        """No training, no writing to what isn't the graph's own; and what an input indexes is noted."""
        name = torch_operators.name_of(call)
        if name in IN_PLACE and not (args and isinstance(args[0], Slot) and args[0] in self._fresh):
            refuse(f"it calls {name!r} on what may be a weight or an input. {PLAINLY}")
        torch_operators.check_mode(call, args, kwargs)
        if name == "embedding" and len(args) > 1 and args[0] in self.fixed:
            rows = self.fixed[args[0]].shape[0]
            for given, slot in self.inputs.items():
                if args[1] is slot:
                    self.ranges[given] = min(rows, self.ranges.get(given, rows))

    def _results(self, outputs: list[Json]) -> Outputs:
        found: list[Slot | tuple[Slot, ...] | None] = []
        for output in outputs:
            ((form, value),) = output.items()
            if form == "as_tensor":
                found.append(self._place(value["name"]) if value["name"] else None)
            elif form == "as_tensors":
                found.append(tuple(self._place(one["name"]) for one in value))
            elif form in {"as_sym_int", "as_sym_bool", "as_sym_float"}:
                found.append(self._place(value["as_name"]))
            elif form == "as_none":
                found.append(None)
            else:
                refuse(f"a node gives a result of the kind {str(form)[:40]!r}")
        return tuple(found)

    def _place(self, name: Any) -> Slot:
        """The place of a new result, whose name is given for the first time."""
        if not isinstance(name, str) or name in self.slots:
            raise ValueError(name)
        return self.slots.setdefault(name, Slot(len(self.slots)))

    # ------------------------------------------------------------------ arguments

    def argument(self, argument: Json) -> Any:
        """A constant, the slot of an earlier result, or a list of them."""
        ((form, value),) = argument.items()
        if form not in _READERS:
            refuse(f"a node takes an argument of the kind {str(form)[:40]!r}. {PLAINLY}")
        return _READERS[form](self, value)

    def tensor(self, value: Json) -> Slot:
        return self.slots[value["name"]]

    def optional(self, value: Json) -> Slot | None:
        ((form, content),) = value.items()
        return None if form == "as_none" else self.tensor(content)

    def symbol(self, value: Json) -> Any:
        ((form, content),) = value.items()
        return self.slots[content] if form == "as_name" else _number(content)

    def dtype(self, value: Any) -> torch.dtype:
        """The archive's fp32 is what the model computes in."""
        dtype = DTYPES[value]
        return self._dtype if dtype == torch.float32 else dtype

    def device(self, _: Any) -> torch.device:
        """The one that the model is on, wherever it was exported."""
        return self._device


def _each(read: Callable[[_Reader, Any], Any]) -> Callable[[_Reader, Any], list[Any]]:
    return lambda reader, values: [read(reader, value) for value in values]


def _number(value: Any) -> Any:
    if not isinstance(value, bool | int | float):
        raise TypeError(value)
    return value


def _word(value: Any) -> str:
    """Such as `tanh` for gelu's approximation, or an equation of einsum."""
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise TypeError(value)
    return value


_READERS: dict[str, Callable[[_Reader, Any], Any]] = {
    "as_none": lambda _, value: None,
    "as_tensor": _Reader.tensor,
    "as_tensors": _each(_Reader.tensor),
    "as_optional_tensors": _each(_Reader.optional),
    "as_int": lambda _, value: _number(value),
    "as_ints": _each(lambda _, value: _number(value)),
    "as_float": lambda _, value: float(value),  # infinity is a text there
    "as_floats": _each(lambda _, value: float(value)),
    "as_bool": lambda _, value: bool(_number(value)),
    "as_bools": _each(lambda _, value: bool(_number(value))),
    "as_string": lambda _, value: _word(value),
    "as_sym_int": _Reader.symbol,
    "as_sym_ints": _each(_Reader.symbol),
    "as_sym_float": _Reader.symbol,
    "as_sym_bool": _Reader.symbol,
    "as_scalar_type": _Reader.dtype,
    "as_layout": lambda _, value: _LAYOUTS[value],
    "as_memory_format": lambda _, value: _MEMORY_FORMATS[value],
    "as_device": _Reader.device,
}


# --------------------------------------------------------------------------- parts of the above


def _output(spec: Json) -> str:
    """The result that an output is."""
    ((kind, content),) = spec.items()
    if kind != "user_output":
        refuse(f"it writes to its own state ({str(kind)[:40]}). {IN_EVAL_MODE}")
    ((form, value),) = content["arg"].items()
    if form != "as_tensor":
        refuse("it has an output that is no tensor; export a model that returns tensors alone")
    return str(value["name"])


def _output_names(module: Json) -> list[str]:
    """The keys of the dictionary that the model returned; else none."""
    try:
        _, tree = msgspec.json.decode(module["module_call_graph"][0]["signature"]["out_spec"])
        names = msgspec.json.decode(tree["context"] or "null")
        flat = all(child["type"] is None for child in tree["children_spec"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError):
        return []
    if not flat or not isinstance(names, list) or len({str(name) for name in names}) != len(names):
        return []
    return [str(name) for name in names]


def _numbered(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


def _described(meta: Json, name: str, *, floats: str = "") -> TensorSpec:
    """A tensor as the archive describes it; what goes out in half precision is sent as `floats`."""
    dtype = DTYPES[meta["dtype"]]
    datatype = floats if floats and dtype in {torch.float16, torch.bfloat16} else _NAMES.get(dtype)
    if datatype is None:
        refuse(f"{name!r} is {dtype}, which can't be sent; let the model take another type")
    return TensorSpec(name, datatype, tuple(size.get("as_int", -1) for size in meta["sizes"]))


def _symbol(size: Json) -> str:
    text = size["as_expr"]["expr_str"]
    matched = _SYMBOL.fullmatch(text)
    return (matched["quoted"] or matched["plain"]) if matched else str(text)


def _value(arg: Any, results: list[Any]) -> Any:
    kind = type(arg)
    if kind is Slot:
        return results[arg]
    return [_value(one, results) for one in arg] if kind is list else arg


def _keep(made: Any, outputs: Outputs, results: list[Any]) -> None:
    """Put what a call gave into its places."""
    for output, one in zip(outputs, made if len(outputs) > 1 else (made,), strict=True):
        if isinstance(output, tuple):
            for slot, part in zip(output, one, strict=True):
                results[slot] = part
        elif output is not None:
            results[output] = one


def _with_ends(steps: list[Step], keep: set[Slot]) -> list[Step]:
    """The same steps, each told what nobody reads after it, so that memory goes back as soon as it can."""
    seen = set(keep)
    ended = []
    for step in reversed(steps):
        slots = set(_slots_in([*step.args, *step.kwargs.values(), *step.outputs]))
        ended.append(step._replace(done=tuple(slots - seen)))
        seen |= slots
    return ended[::-1]


def _slots_in(values: Sequence[Any]) -> list[Slot]:
    found: list[Slot] = []
    for value in values:
        if isinstance(value, Slot):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _slots_in(value)
    return found
