"""Models of torch: a `torch.export` archive, or safetensors with the layers that seaway.yaml lists. No TorchScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE, convert
from seaway.runtimes.base import Array
from seaway.runtimes.torch_archive import ITEM_BYTES, StoredTensor, read_archive
from seaway.runtimes.torch_device import (
    DATATYPES,
    Stop,
    TorchSession,
    check_range,
    choose_device,
    choose_dtype,
    is_out_of_memory,
)  # fmt: skip
from seaway.runtimes.torch_graph import DTYPES, Graph
from seaway.runtimes.torch_layers import Network, build
from seaway.types import Signature, TensorSpec

Place = tuple[torch.device, torch.dtype]
_PROBES = (3, 5)
"""Sizes that stand for a variable dimension, to see which dimensions of the output vary with it."""


class Tensor_(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    datatype: str = "FP32"
    shape: tuple[Annotated[int, Meta(ge=-1, le=1 << 32)], ...] = ()


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `signature`: what weights alone don't say, and other names for an archive's outputs."""

    inputs: tuple[Tensor_, ...] = ()
    outputs: tuple[Tensor_, ...] = ()


class TorchRuntime:
    """Loads `*.pt2`, and `*.safetensors` with an architecture."""

    def load(
        self, package: Path, spec: PackageSpec, *, threads: int, device: str = "auto", dtype: str = "auto"
    ) -> DeclaredSession:
        chosen = choose_device(device)
        place = chosen, choose_dtype(dtype, chosen)
        declared = convert(spec.signature or {}, Declared, "signature")
        if spec.architecture is not None:
            return _open_layers(package, spec, declared, place, threads)
        return _open_archive(package / (spec.model or ""), declared, place, threads)


class DeclaredSession(TorchSession):
    """Knows besides which inputs index a table, and which sizes must be equal or have a limit."""

    ranges: Mapping[str, int]
    axes: Mapping[str, Sequence[tuple[str, int]]]
    limits: Mapping[str, int]

    def check(self, feeds: Mapping[str, Array]) -> None:
        super().check(feeds)
        for symbol, places in self.axes.items():
            (first, axis), *others = places
            size = feeds[first].shape[axis]
            for name, other in others:
                if feeds[name].shape[other] != size:
                    found = feeds[name].shape[other]
                    raise InvalidRequest(f"{name!r} has {found} in dimension {other}; {first!r} has {size} of them.")
            limit = self.limits.get(symbol, size)
            if size > limit:
                raise PayloadTooLarge(f"{first!r} has {size} in dimension {axis}; the model takes {limit}.")
        for name, rows in self.ranges.items():
            check_range(feeds[name], name, rows)


# --------------------------------------------------------------------------- an archive


def _open_archive(path: Path, declared: Declared, place: Place, threads: int) -> DeclaredSession:
    if declared.inputs:
        raise InvalidPackage(f"{SPEC_FILE}: signature.inputs: {path.name!r} has its own; remove the key.")
    archive = read_archive(path)
    with _memory(path.name):
        stored = np.memmap(path, dtype=np.uint8, mode="c")
        weights = {name: _tensor(stored, tensor).to(place[0]) for name, tensor in archive.tensors.items()}
        graph = Graph(archive, {name: _cast(weight, place[1]) for name, weight in weights.items()}, place)
    outputs = _renamed(graph.signature.outputs, declared.outputs)
    originals = dict(zip((spec.name for spec in outputs), (spec.name for spec in graph.signature.outputs), strict=True))
    stop = Stop()

    def forward(tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        return graph.run(tensors, [originals[name] for name in names], stop)

    session = DeclaredSession(
        forward, Signature(graph.signature.inputs, outputs), platform="pytorch_export", place=place, threads=threads,
        stop=stop,
    )  # fmt: skip
    session.ranges, session.axes, session.limits = graph.ranges, graph.axes, graph.limits
    return session


def _tensor(stored: Any, tensor: StoredTensor) -> Tensor:
    """A view of the mapped file, so that weights are shared with the page cache."""
    dtype, size = DTYPES[tensor.dtype], ITEM_BYTES[tensor.dtype]
    if tensor.n_bytes == 0 or 0 in tensor.sizes:
        return torch.zeros(tensor.sizes, dtype=dtype)
    flat = stored[tensor.begin : tensor.begin + tensor.n_bytes // size * size]
    flat = flat if tensor.begin % size == 0 else flat.copy()
    whole = torch.from_numpy(flat).view(dtype)
    return whole.as_strided(tensor.sizes, tensor.strides, tensor.offset)


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) if weight.dtype == torch.float32 else weight


def _renamed(found: tuple[TensorSpec, ...], declared: tuple[Tensor_, ...]) -> tuple[TensorSpec, ...]:
    if not declared:
        return found
    if len(declared) != len(found) or len({one.name for one in declared}) != len(found):
        raise InvalidPackage(f"{SPEC_FILE}: signature.outputs: the model has {len(found)}; name each, or none.")
    return tuple(TensorSpec(one.name, spec.datatype, spec.shape) for one, spec in zip(declared, found, strict=True))


# --------------------------------------------------------------------------- layers


def _open_layers(package: Path, spec: PackageSpec, declared: Declared, place: Place, threads: int) -> DeclaredSession:
    file = spec.model or ""
    taken = _only_input(declared)
    with _memory(file):
        try:
            weights = load_file(package / file)
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidPackage(f"{file!r} is not a safetensors file.") from error
        network = build(spec.architecture or (), weights, file)
        given = _given(network, taken, declared)
        network = network.to(device=place[0], dtype=place[1]).eval()
    stop = Stop()
    network.check = stop.check

    def forward(tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        return [network(tensors[taken.name])]

    session = DeclaredSession(
        forward, Signature((taken,), (given,)), platform="pytorch_safetensors", place=place, threads=threads, stop=stop
    )
    first = next(iter(network.parts))
    table = isinstance(first, torch.nn.Embedding)
    session.ranges = {taken.name: first.num_embeddings} if table else {}  # type: ignore[dict-item]
    session.axes, session.limits = {}, {}
    return session


def _only_input(declared: Declared) -> TensorSpec:
    if len(declared.inputs) != 1 or len(declared.outputs) > 1:
        raise InvalidPackage(
            f"{SPEC_FILE}: signature: layers take one input and give one output; write inputs: "
            "[{name: x, datatype: FP32, shape: [-1, 3]}]."
        )
    (one,) = declared.inputs
    if one.datatype not in DATATYPES or not one.shape:
        raise InvalidPackage(
            f"{SPEC_FILE}: signature.inputs[0]: {one.datatype} {list(one.shape)} is none; the datatype is one of "
            f"{', '.join(DATATYPES)}, and the shape a list with -1 for what varies."
        )
    return TensorSpec(one.name, one.datatype, one.shape)


def _given(network: Network, taken: TensorSpec, declared: Declared) -> TensorSpec:
    """The output: its shape by letting shapes alone run through the layers, twice."""
    try:
        with torch.inference_mode():
            shapes = [_shape_of(network, taken, size) for size in _PROBES]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InvalidPackage(
            f"{SPEC_FILE}: architecture: {taken.datatype} {list(taken.shape)} doesn't go through: {reason}."
        ) from error
    found = tuple(one if one == other else -1 for one, other in zip(*shapes, strict=True))
    if not declared.outputs:
        return TensorSpec("output", "FP32", found)
    (one,) = declared.outputs
    pairs = zip(one.shape, found, strict=False)
    fits = not one.shape or (len(one.shape) == len(found) and all(-1 in pair or pair[0] == pair[1] for pair in pairs))
    if one.datatype != "FP32" or not fits:
        wanted = f"{one.datatype} {list(one.shape)}"
        raise InvalidPackage(f"{SPEC_FILE}: signature.outputs[0] is {wanted}; the layers give FP32 {list(found)}.")
    return TensorSpec(one.name, "FP32", found)


def _shape_of(network: Network, taken: TensorSpec, size: int) -> tuple[int, ...]:
    shape = [size if dimension == -1 else dimension for dimension in taken.shape]
    tensor = torch.zeros(shape, dtype=DATATYPES[taken.datatype], device="meta")
    made: Tensor = torch.func.functional_call(network, _without_memory(network), (tensor,))
    return tuple(made.shape)


def _without_memory(network: Network) -> dict[str, Tensor]:
    return {name: tensor.to("meta") for name, tensor in network.state_dict().items()}


class _memory:
    """Loading that needs too much."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and is_out_of_memory(error):
            raise InvalidPackage(f"{self._file!r} needs more memory to load than is allowed.") from error
