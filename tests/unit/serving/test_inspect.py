"""Inspection: an upload is opened in a throw-away process, and whatever happens there comes back as a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support import graphs, tiny, torches

from seaway.errors import InvalidPackage
from seaway.serving.inspect import Inspection, inspect_package
from seaway.types import Signature, TensorSpec


def inspect(package: Path, *, memory_mib: int = 4096, seconds: float = 30) -> Inspection:
    return inspect_package(package, memory_bytes=memory_mib << 20, seconds=seconds)


def test_a_sound_package_tells_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"inputs": [1, 2, 3], "outputs": [2, 4, 6]}]))
    tiny.write_package(tmp_path, tiny.scale_model(2.0), "{known_answers: a.json, description: doubles}")

    found = inspect(tmp_path)

    assert found.runtime == "onnx"
    assert found.platform == "onnxruntime_onnx"
    assert found.signature == Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),))
    assert found.spec["description"] == "doubles"
    assert found.spec["model"] == "model.onnx"


def test_a_broken_package_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="Teleport"):
        inspect(tiny.write_package(tmp_path, tiny.unknown_operator_model()))


def test_wrong_known_answers_are_refused_with_the_difference(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"inputs": [1, 2, 3], "outputs": [2, 4, 7]}]))

    with pytest.raises(InvalidPackage, match=r"Known answer 0 differs: outputs\[2\] is 6.0 instead of 7"):
        inspect(tiny.write_package(tmp_path, tiny.scale_model(2.0), "known_answers: a.json"))


def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"inputs": {"go": [true], "x": [1]}, "outputs": [1]}]')

    with pytest.raises(InvalidPackage, match=r"more than 2 s"):
        inspect(tiny.write_package(tmp_path, tiny.endless_model(), "known_answers: a.json"), seconds=2)


def test_a_model_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    fill = graphs.model(
        [
            ("ConstantOfShape", ["shape"], ["zeros"], {}),
            ("ReduceSum", ["zeros"], ["sum"], {}),
            ("Add", ["x", "sum"], ["y"], {}),
        ],
        [("x", graphs.FLOAT, ["n", 3])],
        [("y", graphs.FLOAT, None)],
        {"shape": np.array([2**34, 1], np.int64)},
    )

    with pytest.raises(InvalidPackage, match=r"memory|MiB|load"):
        inspect(tiny.write_package(tmp_path, fill), memory_mib=2048)


def test_code_in_a_package_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("seaway.py", "numpy.py", "onnxruntime.py", "sitecustomize.py"):
        (tmp_path / name).write_text("open('ran', 'w').close()\nraise SystemExit(3)\n")
    tiny.write_package(tmp_path, tiny.scale_model(1.0))
    monkeypatch.chdir(tmp_path)

    assert inspect(tmp_path).runtime == "onnx"
    assert not (tmp_path / "ran").exists()


def test_models_of_torch_are_opened_too(tmp_path: Path) -> None:
    torches.write_bert(tmp_path / "a", spec="task: embeddings")
    torches.write_layers(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.pt2").write_bytes(torches.scale_archive())

    found = [inspect(tmp_path / name, memory_mib=512) for name in "abc"]

    assert [one.platform for one in found] == ["pytorch_transformers", "pytorch_safetensors", "pytorch_export"]
    assert found[0].spec["input"]["options"]["max_tokens"] == torches.POSITIONS


def test_an_archive_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    class Outer(torches.nn.Module):
        def forward(self, x: torches.Tensor) -> torches.Tensor:
            return (x.sum() + torches.torch.zeros(1 << 33)).sum().reshape(1, 1) + x

    (tmp_path / "model.pt2").write_bytes(torches.archive(Outer(), torches.torch.zeros(2, 3)))

    with pytest.raises(InvalidPackage, match="memory"):
        inspect(tmp_path, memory_mib=2048)


def test_a_pickle_is_refused_and_never_read(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    package = tmp_path / "package"
    torches.write_bert(package, spec="task: embeddings")
    (package / "pytorch_model.bin").write_bytes(torches.pickled(trap))

    with pytest.raises(InvalidPackage, match=r"'pytorch_model\.bin' is a pickle"):
        inspect(package)
    (package / "pytorch_model.bin").rename(package / "model.safetensors")
    with pytest.raises(InvalidPackage, match=r"'model\.safetensors' is not a safetensors file"):
        inspect(package)
    assert not trap.exists()
