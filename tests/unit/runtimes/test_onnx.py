"""ONNX Runtime behind the runtime protocol: signatures from graphs, and errors in our words."""

from __future__ import annotations

import contextlib
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.support import graphs, tiny

from seaway.errors import Cancelled, InferenceFailed, InvalidPackage, InvalidRequest
from seaway.packages import PackageSpec
from seaway.runtimes.base import RunHandle, Session
from seaway.runtimes.onnx import OnnxRuntime
from seaway.types import LeftOut, TensorSpec


def load(directory: Path, model: bytes, name: str = "model.onnx") -> Session:
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(model)
    return OnnxRuntime().load(directory, PackageSpec(model=name), threads=1)


def test_the_signature_is_what_the_graph_declares(tmp_path: Path) -> None:
    kinds = [
        ("a", TensorProto.FLOAT16, ["n", 2]),
        ("b", TensorProto.STRING, []),
        ("c", TensorProto.BOOL, [None, "k", 3]),
    ]
    model = graphs.model(
        [("Identity", [name], [name.upper()], {}) for name, _, _ in kinds],
        kinds,
        [(name.upper(), kind, shape) for name, kind, shape in kinds],
    )

    signature = load(tmp_path, model).signature

    assert signature.inputs == (
        TensorSpec("a", "FP16", (-1, 2)), TensorSpec("b", "BYTES", ()), TensorSpec("c", "BOOL", (-1, -1, 3)),
    )  # fmt: skip
    assert [spec.name for spec in signature.outputs] == ["A", "B", "C"]


def test_outputs_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]), sequence],
    )
    both = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    del graph.output[0], graph.node[1]
    only = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    signature = load(tmp_path, both.SerializeToString()).signature
    assert [spec.name for spec in signature.outputs] == ["y"]
    assert signature.left_out == (LeftOut("s", "no tensor, but seq(tensor(float))"),)
    with pytest.raises(InvalidPackage, match="ZipMap"):
        load(tmp_path, only.SerializeToString())


def test_an_output_of_zipmap_is_left_out_with_the_way_to_have_it(tmp_path: Path) -> None:
    signature = load(tmp_path, graphs.zipmap()).signature

    assert [spec.name for spec in signature.outputs] == ["output_label"]
    assert signature.left_out == (LeftOut("output_probability", "no tensor; export with zipmap=False to have it"),)


def test_a_type_that_the_protocol_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"'x' is of type tensor\(bfloat16\).*Cast"):
        load(tmp_path, graphs.identity(TensorProto.BFLOAT16, ("n",)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not an ONNX model"),
        (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n", "is not an ONNX model"),
        (b"PK\x03\x04" + b"\0" * 100, "is not an ONNX model"),
        (b"not a model at all, but text", "is not an ONNX model"),
        (tiny.unknown_operator_model(), "'somewhere.else:Teleport'"),
        (graphs.model([("Teleport", ["x"], ["y"], {})], [("x", 1, ["n"])], [("y", 1, ["n"])]), "'Teleport'"),
        (graphs.model([("Add", ["x", "z"], ["y"], {})], [("x", 1, ["n"])], [("y", 1, ["n"])]), "can't be loaded"),
        (graphs.identity()[:-10], "ONNX model|can't be loaded"),
    ],
    ids=["empty", "pickle", "zip", "text", "custom operator", "unknown operator", "dangling name", "cut"],
)
def test_what_cannot_be_loaded_is_refused_saying_why(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(InvalidPackage, match=why) as caught:
        load(tmp_path / "package", content)
    assert str(tmp_path) not in str(caught.value)
    assert "onnxruntime" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret.bin", r"'\.\./secret\.bin' is outside the package"),
        ("deep/../../secret.bin", "outside the package"),
        ("link.bin", r"'link\.bin' is outside the package"),
        ("/etc/passwd", "absolute path"),
        ("none.bin", r"'none\.bin' is not in the package"),
        ("short.bin", "shorter"),
    ],
)
def test_external_data_stays_inside_the_package(tmp_path: Path, location: str, why: str) -> None:
    package = tmp_path / "package"
    (package / "deep").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    (package / "short.bin").write_bytes(bytes(4))
    (package / "link.bin").symlink_to(tmp_path / "secret.bin")

    with pytest.raises(InvalidPackage, match=why) as caught:
        load(package, tiny.external_data_model(location))
    assert str(tmp_path) not in str(caught.value)


def test_external_data_inside_the_package_is_used(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.array([1, 2, 3], "<f4").tobytes())

    session = load(tmp_path, tiny.external_data_model("w.bin"))

    assert session.run({"x": np.zeros((1, 3), np.float32)}, ["y"], None)[0].tolist() == [[1, 2, 3]]


def test_inputs_that_the_graph_refuses_are_the_callers_fault(tmp_path: Path) -> None:
    session = load(tmp_path, graphs.identity())

    with pytest.raises(InvalidRequest, match="Expected: 3"):
        session.run({"x": np.zeros((1, 4), np.float32)}, ["y"], None)


def test_an_absurd_allocation_does_not_break_the_session(tmp_path: Path) -> None:
    """With ONNX Runtime's arena, a first request like this one makes every later one fail."""
    fill = graphs.model([("ConstantOfShape", ["x"], ["y"], {})], [("x", graphs.INT64, ["r"])], [("y", 1, None)])
    session = load(tmp_path, fill)

    for size in (2**61, 2**45, 2**62, -1):
        with pytest.raises((InferenceFailed, InvalidRequest)) as caught:
            session.run({"x": np.array([size])}, ["y"], None)
        assert "onnxruntime" not in str(caught.value)
    assert session.run({"x": np.array([2])}, ["y"], None)[0].tolist() == [0, 0]


@pytest.fixture
def endless(tmp_path: Path) -> Session:
    return load(tmp_path, tiny.endless_model())


FOREVER = {"go": np.array([True]), "x": np.ones(1, np.float32)}
ONCE: dict[str, Any] = FOREVER | {"go": np.array([False])}


def test_terminate_ends_a_run_and_leaves_the_session_usable(endless: Session) -> None:
    handle = RunHandle()
    threading.Timer(0.05, handle.terminate).start()

    with pytest.raises(Cancelled):
        endless.run(FOREVER, ["y"], handle)

    handle.reset()
    assert endless.run(ONCE, ["y"], handle)[0].tolist() == [1]


def test_terminate_before_the_run_counts(endless: Session) -> None:
    handle = RunHandle()
    handle.terminate()

    with pytest.raises(Cancelled):
        endless.run(FOREVER, ["y"], handle)


def test_terminate_ends_only_its_own_run(endless: Session) -> None:
    mine, others = RunHandle(), RunHandle()
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(Cancelled):
            endless.run(FOREVER, ["y"], others)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    mine.terminate()
    with pytest.raises(Cancelled):
        endless.run(FOREVER, ["y"], mine)

    assert not ended.is_set()
    others.terminate()
    thread.join(timeout=10)
    assert ended.is_set()


def test_terminate_after_the_run_does_nothing(endless: Session) -> None:
    handle = RunHandle()

    endless.run(ONCE, ["y"], handle)
    handle.terminate()
    handle.reset()

    assert endless.run(ONCE, ["y"], handle)[0].tolist() == [1]


def test_terminate_at_any_moment_never_ends_the_run_after_its_own(endless: Session) -> None:
    handles: queue.SimpleQueue[RunHandle | None] = queue.SimpleQueue()

    def terminate_all() -> None:
        while (handle := handles.get()) is not None:
            handle.terminate()

    thread = threading.Thread(target=terminate_all)
    thread.start()
    try:
        for _ in range(500):
            handles.put(handle := RunHandle())
            with contextlib.suppress(Cancelled):
                endless.run(ONCE, ["y"], handle)
            assert endless.run(ONCE, ["y"], RunHandle())[0].tolist() == [1]
            assert endless.run(ONCE, ["y"], None)[0].tolist() == [1]
    finally:
        handles.put(None)
        thread.join(timeout=10)
