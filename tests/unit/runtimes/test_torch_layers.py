"""Safetensors with layers that seaway.yaml lists: the same answers as torch's modules, and strictness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support import torches
from torch import nn

from seaway.errors import InvalidPackage, InvalidRequest
from seaway.packages import read_spec
from seaway.runtimes import identify, runtime
from seaway.runtimes.base import DeviceSession

X = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}


def write(package: Path, layers: Any, weights: dict[str, Any], taken: Any = X, **spec: Any) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, package / "model.safetensors")
    content = {"architecture": layers, "signature": {"inputs": [taken]}} | spec
    (package / "seaway.yaml").write_text(json.dumps(content))
    return package


def load(package: Path, **options: Any) -> DeviceSession:
    spec = identify(package, read_spec(package))
    return runtime("torch").load(package, spec, threads=1, **options)


LAYERS: list[tuple[dict[str, Any], nn.Module, list[int]]] = [
    ({"type": "Linear", "in_features": 3, "out_features": 5}, nn.Linear(3, 5), [-1, 3]),
    ({"type": "Conv1d", "in_channels": 2, "out_channels": 3, "kernel_size": 2}, nn.Conv1d(2, 3, 2), [-1, 2, 6]),
    (
        {"type": "Conv2d", "in_channels": 2, "out_channels": 4, "kernel_size": [3, 1], "stride": 2, "groups": 2},
        nn.Conv2d(2, 4, (3, 1), 2, groups=2), [-1, 2, 8, 8],
    ),
    ({"type": "BatchNorm1d", "num_features": 3}, nn.BatchNorm1d(3), [-1, 3]),
    ({"type": "BatchNorm2d", "num_features": 2}, nn.BatchNorm2d(2), [-1, 2, 4, 4]),
    ({"type": "LayerNorm", "normalized_shape": [4, 4]}, nn.LayerNorm((4, 4)), [-1, 2, 4, 4]),
    ({"type": "GroupNorm", "num_groups": 2, "num_channels": 4}, nn.GroupNorm(2, 4), [-1, 4, 3]),
    ({"type": "MaxPool1d", "kernel_size": 2}, nn.MaxPool1d(2), [-1, 2, 6]),
    ({"type": "MaxPool2d", "kernel_size": 2}, nn.MaxPool2d(2), [-1, 2, 6, 6]),
    ({"type": "AvgPool1d", "kernel_size": 2}, nn.AvgPool1d(2), [-1, 2, 6]),
    ({"type": "AvgPool2d", "kernel_size": 3, "stride": 1, "padding": 1}, nn.AvgPool2d(3, 1, 1), [-1, 2, 6, 6]),
    ({"type": "AdaptiveAvgPool2d", "output_size": 2}, nn.AdaptiveAvgPool2d(2), [-1, 2, 6, -1]),
    ({"type": "Flatten"}, nn.Flatten(), [-1, 2, 6]),
    ({"type": "Dropout", "p": 0.9}, nn.Dropout(0.9), [-1, 3]),
    ({"type": "Softmax"}, nn.Softmax(-1), [-1, 3]),
    ({"type": "ReLU"}, nn.ReLU(), [-1, 3]),
    ({"type": "LeakyReLU", "negative_slope": 0.2}, nn.LeakyReLU(0.2), [-1, 3]),
    ({"type": "GELU", "approximate": "tanh"}, nn.GELU("tanh"), [-1, 3]),
    ({"type": "SiLU"}, nn.SiLU(), [-1, 3]),
    ({"type": "Tanh"}, nn.Tanh(), [-1, 3]),
    ({"type": "Sigmoid"}, nn.Sigmoid(), [-1, 3]),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "module", "shape"), LAYERS, ids=[layer[0]["type"] for layer in LAYERS])
def test_a_layer_computes_what_torchs_does(tmp_path: Path, layer: Any, module: nn.Module, shape: list[int]) -> None:
    sequence = nn.Sequential(module).eval()
    write(tmp_path, [layer], sequence.state_dict(), {"name": "x", "datatype": "FP32", "shape": shape})
    session = load(tmp_path)
    values = torch.randn([size if size > 0 else 4 for size in shape])

    (found,) = session.run({"x": values.numpy()}, ["output"], None)

    with torch.inference_mode():
        np.testing.assert_allclose(found, sequence(values).numpy(), atol=1e-6)
    (given,) = session.signature.outputs
    assert given.shape[0] == -1
    assert all(one in {-1, other} for one, other in zip(given.shape, found.shape, strict=True))


def test_numbers_of_words_go_through_a_table(tmp_path: Path) -> None:
    table = nn.Sequential(nn.Embedding(5, 3))
    taken = {"name": "ids", "datatype": "INT64", "shape": [-1, -1]}
    layers = [{"type": "Embedding", "num_embeddings": 5, "embedding_dim": 3}]
    session = load(write(tmp_path, layers, table.state_dict(), taken))

    assert session.signature.outputs[0].shape == (-1, -1, 3)
    assert session.run({"ids": np.array([[4, 0]])}, ["output"], None)[0].shape == (1, 2, 3)
    with pytest.raises(InvalidRequest, match="'ids' holds 5; 0 to 4 are known"):
        session.check({"ids": np.array([[5]])})


def test_what_goes_around_is_added_to_what_goes_through(tmp_path: Path) -> None:
    weights = {"block.layers.inner.weight": torch.eye(3) * 2, "block.shortcut.0.weight": torch.eye(3) * 10}
    linear = {"type": "Linear", "in_features": 3, "out_features": 3, "bias": False}
    block = {
        "type": "Residual", "name": "block", "layers": [linear | {"name": "inner"}, {"type": "ReLU"}],
        "shortcut": [linear],
    }  # fmt: skip
    session = load(write(tmp_path, [block], weights))

    assert session.run({"x": np.array([[1, -1, 2]], np.float32)}, ["output"], None)[0].tolist() == [[12, -10, 24]]


def test_names_are_those_of_the_state_dict(tmp_path: Path) -> None:
    layer = {"type": "Linear", "name": "classifier.dense", "in_features": 3, "out_features": 2}
    weights = {"classifier.dense.weight": torch.zeros(2, 3), "classifier.dense.bias": torch.ones(2)}

    session = load(write(tmp_path, [layer], weights))

    assert session.run({"x": np.ones((1, 3), np.float32)}, ["output"], None)[0].tolist() == [[1, 1]]


def test_bf16_is_computed_in_and_fp32_answered(tmp_path: Path) -> None:
    session = load(torches.write_layers(tmp_path, 1.001), dtype="bf16")

    (found,) = session.run({"x": np.ones((1, 3), np.float32)}, ["y"], None)

    assert (session.dtype, found.dtype, found.tolist()) == ("bf16", np.float32, [[1, 1, 1]])


ONE = {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)}
LINEAR = {"type": "Linear", "in_features": 3, "out_features": 2}


@pytest.mark.parametrize(
    ("layers", "weights", "why"),
    [
        ([LINEAR], {"0.weight": torch.zeros(2, 3)}, "lacks '0.bias', which the architecture"),
        ([LINEAR], ONE | {"1.weight": torch.zeros(1)}, "has '1.weight', for which the architecture .* no place"),
        ([LINEAR], ONE | {"0.bias": torch.zeros(3)}, r"'0.bias' has shape \[3\]; .* needs \[2\]"),
        ([LINEAR | {"in_features": 1 << 24, "out_features": 1 << 24}], ONE, r"has shape \[2\]|has shape \[2, 3\]"),
        ([LINEAR | {"in_features": "3"}], ONE, r"'architecture\[0\].in_features' must be a whole number, not '3'"),
        ([LINEAR | {"in_features": 0}], ONE, r"architecture\[0\].in_features"),
        ([LINEAR | {"device": "cuda"}], ONE, r"unknown key 'architecture\[0\].device'"),
        ([{"type": "Linear"}], ONE, r"'architecture\[0\].\w+' is required"),
        ([{"type": "LSTM"}], ONE, r"'architecture\[0\].type': there is no 'LSTM'; known are: Linear, .*, Residual\."),
        ([{"type": "Residual", "layers": [LINEAR | {"bais": 1}]}], ONE, r"layers\[0\].bais'; did you mean 'bias'\?"),
        ([{"type": "ReLU", "speed": 1}], ONE, r"'architecture\[0\].speed'; known are: type, name\."),
        ([{"type": "__import__"}], ONE, r"architecture\[0\].type"),
        ([{}], ONE, r"architecture\[0\]"),
        ([], ONE, "0 layers; 1 to 10000 are allowed"),
        ([LINEAR | {"name": "a"}, LINEAR | {"name": "a"}], ONE, "the name 'a' is used twice"),
        ([LINEAR | {"name": "../x"}], ONE, r"architecture\[0\].name"),
        ([LINEAR | {"in_features": 4}], ONE | {"0.weight": torch.zeros(2, 4)}, "doesn't go through"),
    ],
)  # fmt: skip
def test_weights_and_layers_must_fit_exactly(tmp_path: Path, layers: Any, weights: Any, why: str) -> None:
    with pytest.raises(InvalidPackage, match=why) as caught:
        load(write(tmp_path, layers, weights))
    assert str(tmp_path) not in str(caught.value)


def test_layers_nested_without_end_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [LINEAR], ONE)
    text = "{type: Residual, layers: [" * 2000 + "{type: ReLU}" + "]}" * 2000
    (tmp_path / "seaway.yaml").write_text(f"architecture: [{text}]")

    with pytest.raises(InvalidPackage, match="nested too deep"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ({}, "write inputs:"),
        ({"inputs": [X, X | {"name": "z"}]}, "write inputs:"),
        ({"inputs": [X | {"datatype": "BYTES"}]}, r"BYTES \[-1, 3\] is none"),
        ({"inputs": [X | {"shape": []}]}, "is none; the datatype is one of"),
        ({"inputs": [X | {"shape": [-1, 4]}]}, "doesn't go through"),
        ({"inputs": [X], "outputs": [{"name": "y", "shape": [-1, 7]}]}, r"the layers give FP32 \[-1, 2\]"),
        ({"inputs": [X], "outputs": [{"name": "y", "datatype": "INT64"}]}, "the layers give FP32"),
    ],
)
def test_the_declared_tensors_must_fit_the_layers(tmp_path: Path, signature: Any, why: str) -> None:
    with pytest.raises(InvalidPackage, match=why):
        load(write(tmp_path, [LINEAR], ONE, signature=signature))
