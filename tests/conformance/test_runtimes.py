"""Every runtime of the table keeps the same promises; a new one needs a case here and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.support import tiny, torches

from seaway.errors import Cancelled, ConfigurationError, InvalidPackage, InvalidRequest
from seaway.packages import read_spec
from seaway.runtimes import MODEL_SUFFIXES, RUNTIMES, identify, operators, runtime
from seaway.runtimes.base import DeviceSession, RunHandle
from seaway.types import Signature, TensorSpec

Feeds = dict[str, Any]


class Case(NamedTuple):
    write: Callable[[Path], Any]
    """Makes the package."""
    model: str
    feeds: Feeds
    """Several rows."""
    wrong: Feeds
    """What the model can't compute."""
    signature: Signature
    endless: bytes | None = None
    """A model that never ends when `go` is true, where the runtime can execute one."""


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
DOUBLES = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),))
IDS = {"input_ids": np.array([[2, 4, 5, 3], [2, 6, 3, 0]]), "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]])}
TEXTS = Signature(
    tuple(TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids")),
    (TensorSpec("embedding", "FP32", (-1, 8)),),
)
CASES = {
    "onnx": Case(
        lambda package: tiny.write_package(package, tiny.scale_model(2.0)), "model.onnx", {"x": ROWS},
        {"x": ROWS[:, :2]}, DOUBLES, tiny.endless_model(),
    ),
    "torch": Case(
        lambda package: (package / "model.pt2").write_bytes(torches.scale_archive(2.0)), "model.pt2", {"x": ROWS},
        {"x": ROWS[:, :2]}, DOUBLES,
    ),
    "transformers": Case(
        lambda package: torches.write_bert(package, spec="task: embeddings"), "model.safetensors",
        IDS | {"token_type_ids": np.zeros((2, 4), np.int64)},
        {name: np.full((1, 3), 99) for name in (*IDS, "token_type_ids")}, TEXTS,
    ),
}  # fmt: skip
FOREVER = {"go": np.array([True]), "x": np.ones(1, np.float32)}


@pytest.fixture(params=sorted(RUNTIMES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def package(name: str, tmp_path: Path) -> Path:
    CASES[name].write(tmp_path)
    return tmp_path


def load(package: Path, **options: Any) -> DeviceSession:
    spec = identify(package, read_spec(package))
    return runtime(spec.runtime or "").load(package, spec, threads=1, **options)


def one_by_one(session: DeviceSession, feeds: Feeds) -> Any:
    output = session.signature.outputs[0].name
    rows = len(next(iter(feeds.values())))
    return [
        session.run({key: value[row : row + 1] for key, value in feeds.items()}, [output], None)[0][0]
        for row in range(rows)
    ]


def test_every_runtime_of_the_table_has_a_case_and_a_suffix() -> None:
    assert CASES.keys() == RUNTIMES.keys() == {name for names in MODEL_SUFFIXES.values() for name in names}


def test_the_runtime_is_found_by_the_files(name: str, package: Path) -> None:
    found = identify(package, read_spec(package))

    assert (found.runtime, found.model) == (name, CASES[name].model)
    assert found.input.type


def test_the_signature_comes_from_the_files(name: str, package: Path) -> None:
    session = load(package)

    assert session.signature == CASES[name].signature
    assert session.platform


def test_a_batch_gives_what_its_rows_give_alone(name: str, package: Path) -> None:
    session, feeds = load(package), CASES[name].feeds

    found = session.run(feeds, [session.signature.outputs[0].name], RunHandle())[0]

    np.testing.assert_allclose(found, one_by_one(session, feeds), atol=1e-5)


def test_threads_share_a_session(name: str, package: Path) -> None:
    session, feeds = load(package), CASES[name].feeds
    output = session.signature.outputs[0].name
    expected = session.run(feeds, [output], None)[0]
    flipped = {key: value[::-1] for key, value in feeds.items()}

    with ThreadPoolExecutor(4) as threads:
        answers = list(
            threads.map(lambda k: session.run(flipped if k % 2 else feeds, [output], RunHandle())[0], range(50))
        )

    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[::-1] if number % 2 else expected, atol=1e-6)


def test_the_steps_of_a_run_give_what_it_gives(name: str, package: Path) -> None:
    session, feeds = load(package), CASES[name].feeds
    output = session.signature.outputs[0].name

    session.check(feeds)
    first, second = session.stage(feeds), session.stage(feeds)
    launched = [session.launch(staged, [output], None) for staged in (first, second)]

    for one in launched:
        np.testing.assert_array_equal(session.collect(one)[0], session.run(feeds, [output], None)[0])


def test_inputs_that_cannot_be_written_to_are_taken(name: str, package: Path) -> None:
    session, feeds = load(package), {key: value.copy() for key, value in CASES[name].feeds.items()}
    for value in feeds.values():
        value.flags.writeable = False

    assert len(session.run(feeds, [session.signature.outputs[0].name], None)[0]) == 2


def test_a_session_says_where_and_in_what_it_computes(name: str, package: Path) -> None:
    session = load(package, device="cpu")

    assert (session.device, session.dtype) == ("cpu", "fp32")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "cuda:", ""])
def test_a_device_that_is_not_there_is_refused(name: str, package: Path, device: str) -> None:
    with pytest.raises(ConfigurationError, match="device: "):
        load(package, device=device)


def test_an_unknown_dtype_is_refused(name: str, package: Path) -> None:
    with pytest.raises(ConfigurationError, match="dtype: "):
        load(package, dtype="fp8")


def test_a_wrong_input_is_an_invalid_request(name: str, package: Path) -> None:
    session = load(package)

    with pytest.raises(InvalidRequest):
        session.run(CASES[name].wrong, [session.signature.outputs[0].name], None)


def test_a_run_that_was_told_to_end_before_it_began_ends(name: str, package: Path) -> None:
    session, handle = load(package), RunHandle()
    output = session.signature.outputs[0].name
    handle.terminate()

    with pytest.raises(Cancelled):
        session.run(CASES[name].feeds, [output], handle)

    handle.reset()
    assert len(session.run(CASES[name].feeds, [output], handle)[0]) == 2


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.endless is not None])
def test_a_run_can_be_stopped_and_the_session_used_again(name: str, tmp_path: Path) -> None:
    (tmp_path / CASES[name].model).write_bytes(CASES[name].endless or b"")
    session = load(tmp_path)
    handle = RunHandle()
    threading.Timer(0.05, handle.terminate).start()

    with pytest.raises(Cancelled):
        session.run(FOREVER, ["y"], handle)

    handle.reset()
    assert session.run(FOREVER | {"go": np.array([False])}, ["y"], handle)[0].tolist() == [1]


def test_what_a_model_consists_of_is_known(name: str, package: Path) -> None:
    found = operators(package, identify(package, read_spec(package)))

    assert found.all or found.obstacle


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04cos\nsystem\n.", b"PK\x03\x04", b"text"], ids=["empty", "pickle", "zip", "text"]
)
def test_a_file_that_is_no_model_is_refused_without_naming_this_machine(
    name: str, package: Path, content: bytes
) -> None:
    (package / CASES[name].model).write_bytes(content)

    with pytest.raises(InvalidPackage) as caught:
        load(package)
    assert str(package) not in str(caught.value)
