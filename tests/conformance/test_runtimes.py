"""Every runtime of the table keeps the same promises; a new one needs a case here and nothing else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tests.support import tiny

from seaway.errors import Cancelled, InvalidPackage, InvalidRequest
from seaway.packages import PackageSpec
from seaway.runtimes import MODEL_SUFFIXES, RUNTIMES, identify, runtime
from seaway.runtimes.base import RunHandle
from seaway.types import Signature, TensorSpec


class Case(NamedTuple):
    model: str
    doubles: bytes
    """y = 2 x over rows of three FP32 numbers."""
    endless: bytes
    """Never ends when `go` is true."""


CASES = {"onnx": Case("model.onnx", tiny.scale_model(2.0), tiny.endless_model())}
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
FOREVER = {"go": np.array([True]), "x": np.ones(1, np.float32)}


@pytest.fixture(params=sorted(RUNTIMES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def package(name: str, tmp_path: Path) -> Path:
    (tmp_path / CASES[name].model).write_bytes(CASES[name].doubles)
    return tmp_path


def test_every_runtime_of_the_table_has_a_case_and_a_suffix() -> None:
    assert CASES.keys() == RUNTIMES.keys() == set(MODEL_SUFFIXES.values())


def test_the_runtime_is_found_by_the_file(name: str, package: Path) -> None:
    assert identify(package, PackageSpec()).runtime == name


def test_the_signature_comes_from_the_file(name: str, package: Path) -> None:
    session = runtime(name).load(package, identify(package, PackageSpec()), threads=1)

    assert session.signature == Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),))
    assert session.platform


def test_threads_share_a_session(name: str, package: Path) -> None:
    session = runtime(name).load(package, identify(package, PackageSpec()), threads=1)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda k: session.run({"x": ROWS * k}, ["y"], RunHandle())[0], range(50)))

    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, 2 * ROWS * number)


def test_a_wrong_input_is_an_invalid_request(name: str, package: Path) -> None:
    session = runtime(name).load(package, identify(package, PackageSpec()), threads=1)

    with pytest.raises(InvalidRequest):
        session.run({"x": ROWS[:, :2]}, ["y"], None)


def test_a_run_can_be_stopped_and_the_session_used_again(name: str, tmp_path: Path) -> None:
    (tmp_path / CASES[name].model).write_bytes(CASES[name].endless)
    session = runtime(name).load(tmp_path, identify(tmp_path, PackageSpec()), threads=1)
    handle = RunHandle()
    threading.Timer(0.05, handle.terminate).start()

    with pytest.raises(Cancelled):
        session.run(FOREVER, ["y"], handle)

    handle.reset()
    assert session.run(FOREVER | {"go": np.array([False])}, ["y"], handle)[0].tolist() == [1]


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04cos\nsystem\n.", b"PK\x03\x04", b"text"], ids=["empty", "pickle", "zip", "text"]
)
def test_a_file_that_is_no_model_is_refused_without_naming_this_machine(
    name: str, package: Path, content: bytes
) -> None:
    (package / CASES[name].model).write_bytes(content)

    with pytest.raises(InvalidPackage) as caught:
        runtime(name).load(package, identify(package, PackageSpec()), threads=1)
    assert str(package) not in str(caught.value)
