"""Processes of one version that share its weights through a file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.support import graphs

from seaway.errors import InvalidPackage
from seaway.runtimes import onnx_prepared
from seaway.serving.predictor import Predictor
from seaway.serving.shared_weights import open_sharing

CHANCE = np.random.default_rng(3)
WIDE = CHANCE.standard_normal((1024, 1200), np.float32)
TALL = CHANCE.standard_normal((1200, 4), np.float32)
Weights = dict[str, np.ndarray[Any, Any]]


class Opener:
    """Opens like a worker does, and notes what."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.opened: list[Path | None] = []

    def __call__(self, prepared_in: Path | None) -> Predictor:
        self.opened.append(prepared_in)
        predictor = Predictor.open(
            self.package, model="m", version=1, max_body_bytes=1 << 26, prepared_in=prepared_in
        )  # fmt: skip
        predictor.warm_up()
        return predictor


def package(directory: Path, model: bytes) -> Path:
    directory.mkdir()
    (directory / "model.onnx").write_bytes(model)
    return directory


def two_layers() -> bytes:
    return graphs.model(
        [("MatMul", ["x", "a"], ["h"], {}), ("Relu", ["h"], ["r"], {}), ("MatMul", ["r", "b"], ["y"], {})],
        [("x", graphs.FLOAT, ["n", 1024])],
        [("y", graphs.FLOAT, ["n", 4])],
        {"a": WIDE, "b": TALL},
    )


def convolutions() -> bytes:
    kernels = CHANCE.standard_normal((512, 3, 32, 32), np.float32) / 50
    return graphs.model(
        [("Conv", ["x", "k"], ["h"], {}), ("Relu", ["h"], ["y"], {})],
        [("x", graphs.FLOAT, ["n", 3, 40, 40])],
        [("y", graphs.FLOAT, ["n", 512, 9, 9])],
        {"k": kernels},
    )


def recurrent() -> bytes:
    weights: Weights = {
        "w": CHANCE.standard_normal((1, 1200, 1024), np.float32) / 30,
        "r": CHANCE.standard_normal((1, 1200, 300), np.float32) / 30,
    }
    return graphs.model(
        [("LSTM", ["x", "w", "r"], ["", "y"], {"hidden_size": 300})],
        [("x", graphs.FLOAT, [5, "n", 1024])],
        [("y", graphs.FLOAT, [1, "n", 300])],
        weights,
    )


def quantized() -> bytes:
    weights: Weights = {
        "w": CHANCE.integers(-127, 127, (2048, 2200)).astype(np.int8),
        "zero": np.array(0, np.int8), "scale": np.array(0.01, np.float32),
    }  # fmt: skip
    return graphs.model(
        [
            ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], {}),
            ("MatMulInteger", ["q", "w", "z", "zero"], ["i"], {}),
            ("Cast", ["i"], ["f"], {"to": TensorProto.FLOAT}),
            ("Mul", ["f", "s"], ["g"], {}),
            ("Mul", ["g", "scale"], ["y"], {}),
        ],
        [("x", graphs.FLOAT, ["n", 2048])],
        [("y", graphs.FLOAT, ["n", 2200])],
        weights,
    )


def branches() -> bytes:
    """A weight that is only used inside a branch."""
    parts = [
        helper.make_graph(
            [helper.make_node(operator, ["x", "a"], [f"y_{operator}"])], operator, [],
            [helper.make_tensor_value_info(f"y_{operator}", TensorProto.FLOAT, None)],
        )
        for operator in ("MatMul", "MatMul")
    ]  # fmt: skip
    return graphs.model(
        [
            ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
            ("Greater", ["sum", "zero"], ["positive"], {}),
            ("If", ["positive"], ["y"], {"then_branch": parts[0], "else_branch": parts[1]}),
        ],
        [("x", graphs.FLOAT, ["n", 1024])],
        [("y", graphs.FLOAT, ["n", 1200])],
        {"a": WIDE, "zero": np.array(0, np.float32)},
    )


def random() -> bytes:
    return graphs.model(
        [("MatMul", ["x", "a"], ["h"], {}), ("RandomUniformLike", ["h"], ["u"], {}), ("Add", ["h", "u"], ["y"], {})],
        [("x", graphs.FLOAT, ["n", 1024])],
        [("y", graphs.FLOAT, ["n", 1200])],
        {"a": WIDE},
    )


def outputs(predictor: Predictor) -> list[np.ndarray[Any, Any]]:
    shapes = [[2 if size == -1 else size for size in spec.shape] for spec in predictor.signature.inputs]
    chance = np.random.default_rng(11)
    feeds = {
        spec.name: chance.standard_normal(shape, np.float32)
        for spec, shape in zip(predictor.signature.inputs, shapes, strict=True)
    }
    return predictor.session.run(feeds, [spec.name for spec in predictor.signature.outputs], None)


def mapped() -> str:
    return Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("graph", [two_layers, convolutions, recurrent, quantized, branches])
def test_answers_are_the_same_to_the_last_bit(graph: Callable[[], bytes], tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", graph()))
    shared = open_sharing(opener, opener.package, tmp_path / "weights" / "1")
    assert opener.opened == [None, tmp_path / "weights" / "1.new"]
    for one, other in zip(outputs(opener(None)), outputs(shared), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_read_from_the_file_that_all_processes_map(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    plain = opener(None)
    before = mapped().count("weights.bin")

    shared = open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain)

    assert mapped().count("weights.bin") > before
    assert (tmp_path / "weights" / "1" / "weights.bin").stat().st_size > WIDE.nbytes
    assert shared is not plain


def test_later_processes_open_what_the_first_has_written(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    directory = tmp_path / "weights" / "1"
    first = open_sharing(opener, opener.package, directory)
    opener.opened.clear()

    second = open_sharing(opener, opener.package, directory)

    assert opener.opened == [directory]
    np.testing.assert_array_equal(outputs(first)[0], outputs(second)[0])


def test_of_processes_that_start_at_once_one_writes_and_the_others_wait(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    directory = tmp_path / "weights" / "1"
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: open_sharing(opener, opener.package, directory), range(4)))
    assert sorted(map(str, opener.opened)) == sorted(map(str, [None, directory.with_suffix(".new"), *[directory] * 3]))
    assert len({outputs(one)[0].tobytes() for one in found}) == 1


def test_a_model_that_never_answers_twice_alike_keeps_weights_of_its_own(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", random()))
    directory = tmp_path / "weights" / "1"
    plain = opener(None)
    assert open_sharing(opener, opener.package, directory, plain) is plain

    opener.opened.clear()
    open_sharing(opener, opener.package, directory)
    assert opener.opened == [None], "the next process needn't try"


def test_small_models_are_not_worth_a_file(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", graphs.linear(np.eye(3))))
    plain = opener(None)
    assert open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain) is plain
    assert not (tmp_path / "weights").exists()


def test_what_a_dead_process_left_half_written_is_written_anew(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    half = tmp_path / "weights" / "1.new"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    shared = open_sharing(opener, opener.package, tmp_path / "weights" / "1")
    np.testing.assert_array_equal(outputs(opener(None))[0], outputs(shared)[0])


def test_what_cannot_be_written_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise InvalidPackage("No space left on device")

    monkeypatch.setattr(onnx_prepared.PreparedOnnx, "prepare", fail)
    opener = Opener(package(tmp_path / "package", two_layers()))
    plain = opener(None)
    assert open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain) is plain
    assert list((tmp_path / "weights" / "1").iterdir()) == []
