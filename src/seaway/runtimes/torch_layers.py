"""A network as seaway.yaml lists it: layers of torch's own, each with the options it is known to have.

The names of the weights are those that `torch.nn.Sequential` gives: the number of the layer, or its `name`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from seaway.errors import InvalidPackage
from seaway.packages.spec import SPEC_FILE, convert
from seaway.types import Json

Size = Annotated[int, Meta(ge=1, le=1 << 24)]
Sizes = Size | Annotated[list[Size], Meta(min_length=1, max_length=3)]
Padding = Annotated[int, Meta(ge=0, le=65_536)]
Paddings = Padding | Annotated[list[Padding], Meta(min_length=1, max_length=3)]
Name = Annotated[str, Meta(pattern=r"^\w+(\.\w+)*$", max_length=200)]
Axis = Annotated[int, Meta(ge=-8, le=8)]
MAX_LAYERS = 10_000


class Layer(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    """One entry of `architecture`; `type` is the name of the class below."""

    name: Name | None = None
    kind: ClassVar[Callable[..., nn.Module] | None] = None

    def options(self) -> dict[str, Any]:
        fields = {key: getattr(self, key) for key in self.__struct_fields__ if key != "name"}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}

    def module(self) -> nn.Module:
        assert self.kind is not None  # noqa: S101 - every class of the table has one
        return type(self).kind(**self.options())  # type: ignore[misc]


class Linear(Layer, tag="Linear"):
    kind = nn.Linear
    in_features: Size
    out_features: Size
    bias: bool = True


class _Conv(Layer):
    in_channels: Size
    out_channels: Size
    kernel_size: Sizes
    stride: Sizes = 1
    padding: Paddings = 0
    dilation: Sizes = 1
    groups: Size = 1
    bias: bool = True


class Conv1d(_Conv, tag="Conv1d"):
    kind = nn.Conv1d


class Conv2d(_Conv, tag="Conv2d"):
    kind = nn.Conv2d


class _BatchNorm(Layer):
    num_features: Size
    eps: float = 1e-5
    affine: bool = True


class BatchNorm1d(_BatchNorm, tag="BatchNorm1d"):
    kind = nn.BatchNorm1d


class BatchNorm2d(_BatchNorm, tag="BatchNorm2d"):
    kind = nn.BatchNorm2d


class LayerNorm(Layer, tag="LayerNorm"):
    kind = nn.LayerNorm
    normalized_shape: Sizes
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True


class GroupNorm(Layer, tag="GroupNorm"):
    kind = nn.GroupNorm
    num_groups: Size
    num_channels: Size
    eps: float = 1e-5
    affine: bool = True


class Embedding(Layer, tag="Embedding"):
    kind = nn.Embedding
    num_embeddings: Size
    embedding_dim: Size


class _Pool(Layer):
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Paddings = 0
    ceil_mode: bool = False


class MaxPool1d(_Pool, tag="MaxPool1d"):
    kind = nn.MaxPool1d


class MaxPool2d(_Pool, tag="MaxPool2d"):
    kind = nn.MaxPool2d


class AvgPool1d(_Pool, tag="AvgPool1d"):
    kind = nn.AvgPool1d


class AvgPool2d(_Pool, tag="AvgPool2d"):
    kind = nn.AvgPool2d


class AdaptiveAvgPool2d(Layer, tag="AdaptiveAvgPool2d"):
    kind = nn.AdaptiveAvgPool2d
    output_size: Sizes


class Flatten(Layer, tag="Flatten"):
    kind = nn.Flatten
    start_dim: Axis = 1
    end_dim: Axis = -1


class Dropout(Layer, tag="Dropout"):
    kind = nn.Dropout
    p: Annotated[float, Meta(ge=0, le=1)] = 0.5


class Softmax(Layer, tag="Softmax"):
    kind = nn.Softmax
    dim: Axis = -1


class ReLU(Layer, tag="ReLU"):
    kind = nn.ReLU


class LeakyReLU(Layer, tag="LeakyReLU"):
    kind = nn.LeakyReLU
    negative_slope: float = 0.01


class GELU(Layer, tag="GELU"):
    kind = nn.GELU
    approximate: Annotated[str, Meta(pattern="^(none|tanh)$")] = "none"


class SiLU(Layer, tag="SiLU"):
    kind = nn.SiLU


class Tanh(Layer, tag="Tanh"):
    kind = nn.Tanh


class Sigmoid(Layer, tag="Sigmoid"):
    kind = nn.Sigmoid


class Residual(Layer, tag="Residual"):
    """What goes through `layers`, plus what went around them, through `shortcut` if there is one."""

    layers: list[LayerKind]
    shortcut: list[LayerKind] = []

    def module(self) -> nn.Module:
        return _Residual(Network(self.layers, "layers."), Network(self.shortcut, "shortcut."))


LayerKind = (
    Linear | Conv1d | Conv2d | BatchNorm1d | BatchNorm2d | LayerNorm | GroupNorm | Embedding | MaxPool1d | MaxPool2d
    | AvgPool1d | AvgPool2d | AdaptiveAvgPool2d | Flatten | Dropout | Softmax | ReLU | LeakyReLU | GELU | SiLU | Tanh
    | Sigmoid | Residual
)  # fmt: skip


class Network(nn.Module):
    """Layers one after another, under the names that their weights have."""

    def __init__(self, layers: Sequence[Layer], where: str = "") -> None:
        super().__init__()
        self.named: dict[str, nn.Module] = {}
        for number, layer in enumerate(layers):
            name = layer.name or str(number)
            if name in self.named:
                raise InvalidPackage(f"{SPEC_FILE}: architecture: the name {where}{name!r} is used twice.")
            self.named[name] = layer.module()
        self.parts = nn.ModuleList(self.named.values())
        self.check: Callable[..., None] = _nothing

    def forward(self, tensor: Tensor) -> Tensor:
        for part in self.parts:
            self.check()
            tensor = part(tensor)
        return tensor

    def tensors(self, prefix: str = "") -> dict[str, tuple[nn.Module, str]]:
        """Every parameter and buffer by its full name: the module it belongs to, and its name there."""
        found: dict[str, tuple[nn.Module, str]] = {}
        for name, module in self.named.items():
            if isinstance(module, _Residual):
                found |= module.layers.tensors(f"{prefix}{name}.layers.")
                found |= module.shortcut.tensors(f"{prefix}{name}.shortcut.")
            else:
                found |= {f"{prefix}{name}.{key}": (module, key) for key in module.state_dict()}
        return found


class _Residual(nn.Module):
    def __init__(self, layers: Network, shortcut: Network) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, tensor: Tensor) -> Tensor:
        made: Tensor = self.layers(tensor) + self.shortcut(tensor)
        return made


def _nothing() -> None:
    """Asked between two layers."""


def build(architecture: Sequence[Json], weights: Mapping[str, Tensor], file: str) -> Network:
    """The network with `weights`, which must be those it has and no others. Raises InvalidPackage."""
    if not 1 <= len(architecture) <= MAX_LAYERS:
        raise InvalidPackage(f"{SPEC_FILE}: architecture: {len(architecture)} layers; 1 to {MAX_LAYERS} are allowed.")
    layers = convert(list(architecture), list[LayerKind], "architecture")
    try:
        with torch.device("meta"):
            network = Network(layers)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InvalidPackage(f"{SPEC_FILE}: architecture: {str(error).splitlines()[0][:200]}.") from error
    expected = network.tensors()
    # Counts batches while training; older files lack it, and nothing reads it.
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    if missing := sorted(expected.keys() - weights.keys() - counters):
        raise InvalidPackage(f"{file!r} lacks {missing[0]!r}, which the architecture in {SPEC_FILE} needs.")
    if unexpected := sorted(weights.keys() - expected.keys()):
        raise InvalidPackage(f"{file!r} has {unexpected[0]!r}, for which the architecture in {SPEC_FILE} has no place.")
    for key, (module, name) in expected.items():
        _put(module, name, weights.get(key, torch.zeros((), dtype=torch.int64)), f"{file!r}: {key!r}")
    return network


def _put(module: nn.Module, name: str, weight: Tensor, where: str) -> None:
    """Give a module its weight in place of the one without memory that it was made with."""
    place = getattr(module, name)
    if place.shape != weight.shape:
        found, wanted = list(weight.shape), list(place.shape)
        raise InvalidPackage(f"{where} has shape {found}; the architecture in {SPEC_FILE} needs {wanted}.")
    if isinstance(place, nn.Parameter):
        setattr(module, name, nn.Parameter(weight, requires_grad=False))
    else:
        setattr(module, name, weight)
