"""The models that every system serves, and the inputs they are asked about. `python benchmarks/models.py` builds them.

Each is a folder under .models: `model.onnx` (with its weights beside it where they are large), `inputs.npz` with a row
for each request that is sent in turn, and `expected.npy` with what ONNX Runtime answers to them. `models.json` names
inputs and outputs for the servers under peers/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.paths import MODELS, ROOT

Array = np.ndarray[Any, Any]

TEXT = (
    "Model serving systems accept requests over the network, run a trained model on them and answer with its outputs. "
    "Dynamic batching groups the requests that arrive close together, so that an accelerator is used well, while a "
    "latency bound keeps the tail short; on a processor without an accelerator single requests are best run at once, "
    "one on each core, because a bigger batch gains little there. "
)
SHORT_TOKENS, LONG_TOKENS = 16, 256


@dataclass(frozen=True)
class Model:
    """One of the models, as the harness needs it: the inputs of each row, and the answers to them."""

    name: str
    inputs: dict[str, Array]
    expected: Array
    output: str

    @property
    def rows(self) -> int:
        return len(self.expected)

    def row(self, index: int) -> dict[str, Array]:
        """The inputs of one request, with a batch dimension of 1."""
        return {name: values[index : index + 1] for name, values in self.inputs.items()}


@cache
def load(name: str) -> Model:
    """A model that has been built."""
    folder = MODELS / name
    with np.load(folder / "inputs.npz") as inputs:
        arrays = dict(inputs)
    output = json.loads((MODELS / "models.json").read_text())[name]["output"]
    return Model(name, arrays, np.load(folder / "expected.npy"), output)


# ------------------------------------------------------------------------------------------------------ building


def session(path: Path) -> Any:
    """As every system opens a model: one thread, no spinning."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def build_tabular(folder: Path) -> tuple[dict[str, Array], str]:
    """100 trees of scikit-learn's gradient boosting on 30 numbers."""
    from skl2onnx import to_onnx  # noqa: PLC0415
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415
    from sklearn.ensemble import GradientBoostingClassifier  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    rows, labels = load_breast_cancer(return_X_y=True)
    train, test, train_labels, _ = train_test_split(rows.astype(np.float32), labels, random_state=0, stratify=labels)
    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=0).fit(train, train_labels)
    graph = to_onnx(model, train[:1], options={id(model): {"zipmap": False}}, target_opset=17)
    # The label is left out, so that every system computes and answers the same single output.
    (label,) = (output for output in graph.graph.output if output.name == "label")
    graph.graph.output.remove(label)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return {"X": test[:64]}, "probabilities"


def _sentence_graph() -> Any:
    """The encoder of examples/minilm with its mean over the tokens and its norm in the graph: 384 numbers out."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    build = _load_module(ROOT / "examples" / "minilm" / "build.py")
    model = build.make_model(build.read_safetensors(build.source() / "model.safetensors"))
    graph = model.graph
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis_tokens")
    last = numpy_helper.from_array(np.array([2], np.int64), "axis_last")
    graph.initializer.extend([axis, last])
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["mask_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask_float", "axis_last"], ["mask_column"]),
            helper.make_node("Mul", ["last_hidden_state", "mask_column"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "axis_tokens"], ["total"], keepdims=0),
            helper.make_node("LpNormalization", ["total"], ["sentence_embedding"], axis=1, p=2),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", build.WIDTH]))
    return model


def _token_inputs(tokens: int) -> dict[str, Array]:
    """The same sentence cut to an exact number of tokens."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    build = _load_module(ROOT / "examples" / "minilm" / "build.py")
    tokenizer = Tokenizer.from_file(str(build.source() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(TEXT * 4).ids
    row = np.array([[*ids[: tokens - 1], ids[-1]]], np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def build_minilm(folder: Path, tokens: int = SHORT_TOKENS) -> tuple[dict[str, Array], str]:
    """all-MiniLM-L6-v2 in FP32."""
    import onnx  # noqa: PLC0415

    onnx.save(
        _sentence_graph(),
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=1024,
    )
    return _token_inputs(tokens), "sentence_embedding"


def build_minilm_int8(folder: Path) -> tuple[dict[str, Array], str]:
    """The same with dynamically quantized weights."""
    from onnx import TensorProto  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        MODELS / "minilm" / "model.onnx",
        folder / "model.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Shape inference doesn't know the fused operators' outputs, and only weights are to be quantized.
        extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
    return _token_inputs(SHORT_TOKENS), "sentence_embedding"


def build_slow(folder: Path) -> tuple[dict[str, Array], str]:
    """The FP32 model under another name, asked with 256 tokens."""
    return build_minilm(folder, LONG_TOKENS)


def build_vision(folder: Path) -> tuple[dict[str, Array], str]:
    """RapidOCR's classifier of text direction on pictures of 192 x 48."""
    package = importlib.util.find_spec("rapidocr")
    if package is None or package.origin is None:
        raise SystemExit("The package rapidocr is missing; run scripts/setup_benchmarks.")
    (source,) = (Path(package.origin).parent / "models").glob("*_cls_*.onnx")
    shutil.copyfile(source, folder / "model.onnx")
    # Few digits, as a picture's 256 levels give: else the JSON body would be twice as long.
    picture = np.round(np.random.default_rng(0).random((1, 3, 48, 192)), 4).astype(np.float32)
    return {"x": picture}, session(folder / "model.onnx").get_outputs()[0].name


def build_identity(folder: Path) -> tuple[dict[str, Array], str]:
    """Answers the picture that it is asked about: only transport and copies cost anything."""
    import onnx  # noqa: PLC0415
    from onnx import TensorProto, helper  # noqa: PLC0415

    shape = ["n", 3, 224, 224]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return {"x": np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}, "y"


BUILDERS: dict[str, Callable[[Path], tuple[dict[str, Array], str]]] = {
    "tabular": build_tabular,
    "minilm": build_minilm,
    "minilm_int8": build_minilm_int8,
    "slow": build_slow,
    "vision": build_vision,
    "identity": build_identity,
}
"""In the order they are built."""


def build(name: str) -> None:
    """Build a model, and what ONNX Runtime answers to its inputs, unless that is there already."""
    folder = MODELS / name
    if (folder / "expected.npy").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs, output = BUILDERS[name](folder)
    opened = session(folder / "model.onnx")
    count = len(next(iter(inputs.values())))
    rows = [{key: values[index : index + 1] for key, values in inputs.items()} for index in range(count)]
    expected = np.concatenate([opened.run([output], row)[0] for row in rows])
    np.savez(folder / "inputs.npz", **inputs)
    index_path = MODELS / "models.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    described = {key: str(values.dtype) for key, values in inputs.items()}
    shapes = {key: list(values.shape[1:]) for key, values in inputs.items()}
    index[name] = {"inputs": described, "shapes": shapes, "output": output}
    index_path.write_text(json.dumps(index, indent=1) + "\n")
    np.save(folder / "expected.npy", expected)


def check_int8() -> float:
    """The cosine between the FP32 and the INT8 answer."""
    return float((load("minilm").expected[0] @ load("minilm_int8").expected[0]).item())


def build_sentences() -> Path:
    """The package of examples/minilm, which takes strings; Seaway alone serves it."""
    package = MODELS / "sentences"
    if not (package / "seaway.yaml").exists():
        _load_module(ROOT / "examples" / "minilm" / "build.py").build(1, package)
    return package


def _load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the models of the benchmark under .models.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"default all: {', '.join(BUILDERS)}, sentences")
    names = parser.parse_args().names or [*BUILDERS, "sentences"]
    for name in names:
        if name == "sentences":
            build_sentences()
        else:
            build(name)
        print(f"{name} is built.")
    if "minilm_int8" in names:
        print(f"Cosine between the FP32 and the INT8 answer: {check_int8():.4f}")


if __name__ == "__main__":
    main()
