"""Train `digits` and write its package: which digit is in the picture?

`python examples/digits/train.py` learns from scikit-learn's handwritten digits, tells how good the model is on
people it hasn't seen, and writes `package/` and `images/`. Needs `pip install scikit-learn onnx onnxruntime pillow`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
LABELS = [str(digit) for digit in range(10)]
SIDE = 8
HELD_OUT = 597
"""The last third. The data are ordered by who wrote them, so that a random split would test on hands it has seen."""
IMAGES_OF_EACH = 2
TOLERANCE = 1e-5

Array = np.ndarray[Any, Any]

SEAWAY_YAML = f"""\
description: Which handwritten digit is in the picture? A network of two hidden layers (128, 64).
runtime: onnx
model: model.onnx
input:
  type: image
  width: {SIDE}
  height: {SIDE}
  mode: L
  resample: box
  scale: 0.00392156862745098
  mean: [0.5]
  std: [0.5]
  layout: NCHW
output:
  tensor: logits
  softmax: true
  labels: ["{'", "'.join(LABELS)}"]
known_answers: known_answers.json
"""


def read() -> tuple[Array, Array]:
    """Pictures of 8 x 8 pixels from 0 (paper) to 255 (ink), and what they show."""
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def as_input(pixels: Array) -> Array:
    """What Seaway makes of pixels by seaway.yaml: from -1 to 1, one channel."""
    return ((pixels.astype(np.float32) / 255 - 0.5) / 0.5).reshape(-1, 1, SIDE, SIDE)


def train(inputs: Array, digits: Array, *, rounds: int = 300) -> MLPClassifier:
    network = MLPClassifier((128, 64), alpha=1e-2, max_iter=rounds, random_state=0)
    return network.fit(inputs.reshape(len(inputs), -1), digits)


def export(network: MLPClassifier) -> bytes:
    """The network as a graph from `pixels` [batch, 1, 8, 8] to `logits` [batch, 10]."""
    nodes = [helper.make_node("Flatten", ["pixels"], ["layer0"], axis=1)]
    initializers = []
    for number, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        last = number == len(network.coefs_) - 1
        names = [f"layer{number}", f"weights{number}", f"bias{number}"]
        initializers += [
            numpy_helper.from_array(values.astype(np.float32), name)
            for name, values in zip(names[1:], (weights, bias), strict=True)
        ]
        nodes.append(helper.make_node("Gemm", names, ["logits" if last else f"sum{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"layer{number + 1}"]))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        initializer=initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def run(graph: bytes, inputs: Array) -> Array:
    """Probabilities as Seaway makes them: ONNX Runtime, then softmax."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"pixels": inputs})[0]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def write_images(pixels: Array, digits: Array, folder: Path) -> list[Path]:
    """The first held-out pictures of each digit as PNG files, named by what they show."""
    folder.mkdir(exist_ok=True)
    paths = []
    for digit in range(10):
        for number, row in enumerate(np.flatnonzero(digits == digit)[:IMAGES_OF_EACH]):
            path = folder / f"{digit}-{number + 1}.png"
            Image.fromarray(pixels[row]).save(path)
            paths.append(path)
    return paths


def known_answers(paths: list[Path], network: MLPClassifier) -> list[dict[str, Any]]:
    """One picture of each digit and scikit-learn's answer; Seaway replays them before a version takes traffic."""
    answers = []
    for path in paths[::IMAGES_OF_EACH]:
        with Image.open(path) as image:
            pixels = np.asarray(image)
        scores = network.predict_proba(as_input(pixels).reshape(1, -1))[0]
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
    inputs = as_input(pixels)
    network = train(inputs[:-HELD_OUT], digits[:-HELD_OUT])
    graph = export(network)
    held_out = inputs[-HELD_OUT:]
    probabilities = run(graph, held_out)
    difference = float(np.abs(probabilities - network.predict_proba(held_out.reshape(HELD_OUT, -1))).max())
    if difference > TOLERANCE:
        raise SystemExit(f"The exported graph differs from scikit-learn by {difference}.")

    package = HERE / "package"
    package.mkdir(exist_ok=True)
    (package / "model.onnx").write_bytes(graph)
    (package / "seaway.yaml").write_text(SEAWAY_YAML)
    paths = write_images(pixels[-HELD_OUT:], digits[-HELD_OUT:], HERE / "images")
    (package / "known_answers.json").write_text(json.dumps(known_answers(paths, network), indent=2) + "\n")

    right = probabilities.argmax(axis=1) == digits[-HELD_OUT:]
    metrics = {
        "pictures_fitted": len(pixels) - HELD_OUT,
        "pictures_held_out": HELD_OUT,
        "accuracy": round(float(right.mean()), 4),
        "graph_against_sklearn": float(f"{difference:.1e}"),
    }
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    print(f"{len(paths)} pictures in images/, model of {len(graph) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
