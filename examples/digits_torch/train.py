"""Train `digits_torch` and write its package: which digit is in the picture? A small residual network of torch.

`python examples/digits_torch/train.py` learns from scikit-learn's handwritten digits, tells how good the model is on
people it hasn't seen, and writes `package/`: the weights as safetensors, the layers as seaway.yaml lists them. Needs
`pip install scikit-learn pillow pyyaml` and Seaway's extra `torch`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).parent
PACKAGE = HERE / "package"
IMAGES = HERE.parent / "digits" / "images"
LABELS = [str(digit) for digit in range(10)]
SIDE, WIDTH = 8, 16
HELD_OUT = 597
"""The last third. The data are ordered by who wrote them, so that a random split would test on hands it has seen."""
ROUNDS, ROWS, LEARNING_RATE = 20, 32, 3e-3
TOLERANCE = 1e-4

Array = np.ndarray[Any, Any]


class Residual(nn.Module):
    """What goes through the layers, plus what went around them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures + self.layers(pictures)


def conv(inward: int, outward: int) -> dict[str, Any]:
    return {
        "type": "Conv2d", "in_channels": inward, "out_channels": outward, "kernel_size": 3, "padding": 1, "bias": False,
    }  # fmt: skip


def norm(channels: int) -> dict[str, Any]:
    return {"type": "BatchNorm2d", "num_features": channels}


RELU = {"type": "ReLU"}
BLOCK = [conv(WIDTH, WIDTH), norm(WIDTH), RELU, conv(WIDTH, WIDTH), norm(WIDTH)]
ARCHITECTURE: list[dict[str, Any]] = [
    conv(1, WIDTH), norm(WIDTH), RELU,
    {"type": "Residual", "layers": BLOCK}, RELU,
    {"type": "MaxPool2d", "kernel_size": 2},
    conv(WIDTH, 2 * WIDTH), norm(2 * WIDTH), RELU,
    {"type": "AdaptiveAvgPool2d", "output_size": 2},
    {"type": "Flatten"},
    {"type": "Dropout", "p": 0.3},
    {"type": "Linear", "in_features": 8 * WIDTH, "out_features": 10},
]  # fmt: skip
"""The network as Seaway reads it; `network` makes the same of torch's own modules, so that the two check each other."""


def module(layer: dict[str, Any]) -> nn.Module:
    options = {key: value for key, value in layer.items() if key != "type"}
    if layer["type"] == "Residual":
        return Residual(*map(module, options["layers"]))
    return getattr(nn, layer["type"])(**options)


def network() -> nn.Sequential:
    return nn.Sequential(*map(module, ARCHITECTURE))


def read() -> tuple[Array, Array]:
    """Pictures of 8 x 8 pixels from 0 (paper) to 255 (ink), and what they show."""
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def as_input(pixels: Array) -> Tensor:
    """What Seaway makes of pixels by seaway.yaml: from -1 to 1, one channel."""
    return torch.from_numpy(((pixels.astype(np.float32) / 255 - 0.5) / 0.5).reshape(-1, 1, SIDE, SIDE))


def shifted(pictures: Tensor, dice: torch.Generator) -> Tensor:
    """The same, each batch moved by up to a pixel, as hands do."""
    down, right = torch.randint(-1, 2, (2,), generator=dice).tolist()
    return torch.roll(pictures, (down, right), (2, 3))


def train(pictures: Tensor, digits: Tensor, *, rounds: int = ROUNDS) -> nn.Sequential:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in another order would be another model
    dice = torch.Generator().manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    for _ in range(rounds):
        for rows in torch.randperm(len(pictures), generator=dice).split(ROWS):
            loss = nn.functional.cross_entropy(model(shifted(pictures[rows], dice)), digits[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def probabilities(model: nn.Module, pictures: Tensor) -> Array:
    with torch.inference_mode():
        return model(pictures).softmax(-1).numpy()


def seaway_yaml() -> str:
    spec = {
        "description": "Which handwritten digit is in the picture? A small residual network of torch.",
        "runtime": "torch",
        "model": "model.safetensors",
        "signature": {
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, SIDE, SIDE]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, len(LABELS)]}],
        },
        "architecture": ARCHITECTURE,
        "input": {
            "type": "image", "width": SIDE, "height": SIDE, "mode": "L", "resample": "box", "scale": 1 / 255,
            "mean": [0.5], "std": [0.5], "layout": "NCHW",
        },
        "output": {"tensor": "logits", "softmax": True, "labels": LABELS},
        "known_answers": "known_answers.json",
    }  # fmt: skip
    return yaml.dump(spec, Dumper=_NoAliases, sort_keys=False, default_flow_style=None, width=118)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def known_answers(model: nn.Module) -> list[dict[str, Any]]:
    """One picture of each digit and torch's own answer; Seaway replays them before a version takes traffic."""
    answers = []
    for path in sorted(IMAGES.glob("*-1.png")):
        with Image.open(path) as image:
            scores = probabilities(model, as_input(np.asarray(image)))[0]
        best = int(scores.argmax())
        outputs = {
            "label": LABELS[best],
            "score": float(scores[best]),
            "scores": dict(zip(LABELS, scores.tolist(), strict=True)),
        }
        picture = base64.b64encode(path.read_bytes()).decode()
        answers.append({"inputs": picture, "outputs": outputs, "tolerance": TOLERANCE})
    return answers


def main() -> None:
    pixels, digits = read()
    pictures, targets = as_input(pixels), torch.from_numpy(digits)
    model = train(pictures[:-HELD_OUT], targets[:-HELD_OUT])
    PACKAGE.mkdir(exist_ok=True)
    save_file(model.state_dict(), PACKAGE / "model.safetensors")
    (PACKAGE / "model.safetensors").chmod(0o644)
    (PACKAGE / "seaway.yaml").write_text(seaway_yaml())
    (PACKAGE / "known_answers.json").write_text(json.dumps(known_answers(model), indent=2) + "\n")
    right = probabilities(model, pictures[-HELD_OUT:]).argmax(axis=1) == digits[-HELD_OUT:]
    metrics = {
        "pictures_fitted": len(pixels) - HELD_OUT,
        "pictures_held_out": HELD_OUT,
        "accuracy": round(float(right.mean()), 4),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
