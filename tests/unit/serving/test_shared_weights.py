"""Processes of one version that share its weights through a file."""

from __future__ import annotations

import functools
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


def test_after_a_process_has_died_at_it_the_next_keeps_weights_of_its_own(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    half = tmp_path / "weights" / "1.new"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    plain = opener(None)
    for _ in range(2):
        assert open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain) is plain
    assert list((tmp_path / "weights" / "1").iterdir()) == []
    assert not half.exists()


@pytest.mark.parametrize("damage", ["weights.bin", "model.onnx"])
def test_where_the_files_are_damaged_a_process_has_weights_of_its_own(tmp_path: Path, damage: str) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    directory = tmp_path / "weights" / "1"
    first = open_sharing(opener, opener.package, directory)
    (directory / damage).unlink()
    opener.opened.clear()
    np.testing.assert_array_equal(outputs(open_sharing(opener, opener.package, directory))[0], outputs(first)[0])
    assert opener.opened == [directory, None]


def test_where_no_file_can_be_made_a_process_has_weights_of_its_own(tmp_path: Path) -> None:
    opener = Opener(package(tmp_path / "package", two_layers()))
    (tmp_path / "weights").write_bytes(b"a file where the directory should be")
    open_sharing(opener, opener.package, tmp_path / "weights" / "1")
    assert opener.opened == [None]


def test_what_cannot_be_written_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InvalidPackage("No space left on device")

    monkeypatch.setattr(onnx_prepared.PreparedOnnx, "prepare", fail)
    opener = Opener(package(tmp_path / "package", two_layers()))
    plain = opener(None)
    assert open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain) is plain
    assert list((tmp_path / "weights" / "1").iterdir()) == []


def test_other_answers_for_any_input_that_is_tried_are_noticed(tmp_path: Path) -> None:
    """One row of zeros, which is what is made up for this model, would be multiplied to zeros by any weights."""
    right, wrong = (package(tmp_path / str(number), graphs.linear(WIDE * number)) for number in (1, 2))

    def open_from(prepared_in: Path | None) -> Predictor:
        return Opener(right if prepared_in is None else wrong)(None)

    plain = open_from(None)
    assert open_sharing(open_from, right, tmp_path / "weights" / "1", plain) is plain


def odd_sizes(rows: int, columns: int) -> bytes:
    """Sizes that are no multiple of anything a kernel likes."""
    return graphs.model(
        [("MatMul", ["x", "a"], ["h"], {}), ("Relu", ["h"], ["r"], {}), ("Gemm", ["r", "b", "c"], ["y"], {})],
        [("x", graphs.FLOAT, ["n", 1024])],
        [("y", graphs.FLOAT, ["n", columns])],
        {
            "a": CHANCE.standard_normal((1024, rows), np.float32), "c": CHANCE.standard_normal(columns, np.float32),
            "b": CHANCE.standard_normal((rows, columns), np.float32),
        },
    )  # fmt: skip


def odd_bits() -> bytes:
    """4-bit weights whose kernel rounds addresses up, so that it would silently read beside them."""
    nodes, weights = [], {}
    for layer in range(12):
        names = [f"{kind}{layer}" for kind in ("b", "s", "z")]
        weights[names[0]] = CHANCE.integers(0, 255, (1001, 32, 16)).astype(np.uint8)
        weights[names[1]] = CHANCE.random((1001, 32)).astype(np.float32) / 100
        weights[names[2]] = CHANCE.integers(0, 255, (1001, 16)).astype(np.uint8)
        attributes = {"K": 1024, "N": 1001, "bits": 4, "block_size": 32, "accuracy_level": 4}
        nodes.append(("MatMulNBits", ["x", *names], [f"y{layer}"], attributes | {"domain": "com.microsoft"}))
    nodes.append(("Sum", [f"y{layer}" for layer in range(12)], ["y"], {}))
    return graphs.model(nodes, [("x", graphs.FLOAT, ["n", 1024])], [("y", graphs.FLOAT, ["n", 1001])], weights)


def gated() -> bytes:
    """GRU: a layout of several buffers."""
    weights = {
        "w": CHANCE.standard_normal((1, 999, 1100), np.float32) / 30,
        "r": CHANCE.standard_normal((1, 999, 333), np.float32) / 30,
        "b": CHANCE.standard_normal((1, 1998), np.float32) / 30,
    }
    return graphs.model(
        [("GRU", ["x", "w", "r", "b"], ["", "y"], {"hidden_size": 333})],
        [("x", graphs.FLOAT, [3, "n", 1100])],
        [("y", graphs.FLOAT, [1, "n", 333])],
        weights,
    )


ODD = [functools.partial(odd_sizes, *size) for size in ((1100, 17), (1500, 101), (1111, 333))] + [odd_bits, gated]


@pytest.mark.parametrize("graph", ODD, ids=["17 outputs", "101", "333", "4 bits", "several buffers"])
def test_weights_of_odd_sizes_are_where_kernels_can_read_them(graph: Callable[[], bytes], tmp_path: Path) -> None:
    """ONNX Runtime itself writes them anywhere, and then dies of them or answers wrongly."""
    opener = Opener(package(tmp_path / "package", graph()))
    plain = opener(None)
    assert open_sharing(opener, opener.package, tmp_path / "weights" / "1", plain) is not plain

    shared = open_sharing(opener, opener.package, tmp_path / "weights" / "1")

    for rows in (1, 2, 5, 16, 33):
        feeds = {
            spec.name: CHANCE.standard_normal([rows if size == -1 else size for size in spec.shape], np.float32)
            for spec in plain.signature.inputs
        }
        np.testing.assert_array_equal(*(one.session.run(feeds, ["y"], None)[0] for one in (plain, shared)))
