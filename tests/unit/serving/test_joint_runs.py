"""Which versions have joint runs: those that gain by it, and whose samples don't see one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import graphs

from seaway.serving import joint_runs
from seaway.serving.joint_runs import look, same_rows
from seaway.serving.predictor import Predictor
from seaway.types import JointRuns

SIZE = 512
MILLISECOND = 1_000_000
WEIGHTS = np.random.default_rng(3).normal(0, 0.04, (SIZE, SIZE)).astype(np.float32)
"""A sample alone has to fetch all of them, so that several together are much faster."""


def attempt(directory: Path, model: bytes, spec: str = "", *, run_ns: int = MILLISECOND) -> JointRuns:
    package = directory / "package"
    package.mkdir()
    (package / "model.onnx").write_bytes(model)
    if spec:
        (package / "seaway.yaml").write_text(spec)
    predictor = Predictor.open(package, model="m", version=1, max_body_bytes=1 << 26)
    note = directory / "run" / "1.joining"
    found = look(predictor, package, run_ns, note)
    assert not note.exists()
    return found


def products(nodes: list[Any], *, output: int = graphs.FLOAT, shape: Any = ("n", SIZE), **weights: Any) -> bytes:
    """Products that pay together, and `nodes` from their sum `p` to `y`."""
    names = ["x", *(f"p{number}" for number in range(5)), "p"]
    first = [("MatMul", [names[at], "w"], [names[at + 1]], {}) for at in range(6)]
    constants = {"w": WEIGHTS} | {name: np.array(value) for name, value in weights.items()}
    return graphs.model([*first, *nodes], [("x", graphs.FLOAT, ("n", SIZE))], [("y", output, shape)], constants)


def test_a_model_whose_samples_are_apart_and_cheaper_together_has_joint_runs(tmp_path: Path) -> None:
    found = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    assert found.why == ""
    assert found.rows in {2, 4, 8}
    assert found.numbers == found.rows * SIZE
    assert found.together_ns < found.alone_ns


MIXING: dict[str, list[Any]] = {
    "mean of all": [("ReduceMean", ["p", "zero"], ["m"], {}), ("Sub", ["p", "m"], ["y"], {})],
    "largest of all": [("ReduceMax", ["p", "zero"], ["m"], {}), ("Div", ["p", "m"], ["y"], {})],
    "share of all": [("Softmax", ["p"], ["y"], {"axis": 0})],
    "sum so far": [("CumSum", ["p", "first"], ["y"], {})],
}


@pytest.mark.parametrize("how", MIXING)
def test_a_model_whose_samples_see_one_another_has_none(tmp_path: Path, how: str) -> None:
    names = {name for node in MIXING[how] for name in node[1]}
    constants = {"zero": np.array([0]), "first": np.array(0)}
    model = products(MIXING[how], **{name: value for name, value in constants.items() if name in names})
    found = attempt(tmp_path, model)
    assert (found.rows, found.why) == (1, "its answers ('y') would be others")


def test_a_model_that_says_how_many_came_has_none(tmp_path: Path) -> None:
    nodes = [
        ("Shape", ["p"], ["s"], {"end": 1}), ("Cast", ["s"], ["f"], {"to": graphs.FLOAT}),
        ("Mul", ["p", "f"], ["y"], {}),
    ]  # fmt: skip
    assert attempt(tmp_path, products(nodes)).why == "its answers ('y') would be others"


@pytest.mark.parametrize(
    ("nodes", "operators"),
    [
        ([("Round", ["p"], ["y"], {})], "Round"),
        ([("Floor", ["p"], ["f"], {}), ("Sign", ["f"], ["y"], {})], "Floor and Sign"),
        (
            [("DynamicQuantizeLinear", ["p"], ["q", "s", "z"], {}), ("DequantizeLinear", ["q", "s", "z"], ["y"], {})],
            "DynamicQuantizeLinear",
        ),
    ],
    ids=["round", "floor and sign", "quantized"],
)
def test_a_graph_that_rounds_has_none(tmp_path: Path, nodes: list[Any], operators: str) -> None:
    found = attempt(tmp_path, products(nodes))
    assert found.why == f"with {operators} a sample's answer could depend on the others"


def test_a_graph_that_branches_or_picks_has_none(tmp_path: Path) -> None:
    nodes = [
        ("NonZero", ["p"], ["at"], {}), ("Shape", ["at"], ["s"], {"end": 1}),
        ("Cast", ["s"], ["f"], {"to": graphs.FLOAT}), ("Mul", ["p", "f"], ["y"], {}),
    ]  # fmt: skip
    assert attempt(tmp_path, products(nodes)).why == "with NonZero a sample's answer could depend on the others"


@pytest.mark.parametrize(
    ("run_ns", "why"), [(150_000, "a run is too short for that"), (25 * MILLISECOND, "a run is too long for that")]
)
def test_very_short_and_long_runs_are_left_alone(tmp_path: Path, run_ns: int, why: str) -> None:
    assert attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]), run_ns=run_ns).why == why


def test_a_model_that_takes_one_sample_has_none(tmp_path: Path) -> None:
    one = "the model takes one sample at a time"
    limited = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]), "serving:\n  max_batch_size: 1\n")
    assert limited.why == one
    (tmp_path / "fixed").mkdir()
    assert attempt(tmp_path / "fixed", graphs.linear(np.eye(4), batch=1)).why == one


def test_what_is_no_faster_together_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_runs, "_WORTH_MORE", 0.0)
    found = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    assert (found.rows, found.why) == (1, "it is no faster so")


def test_a_trial_that_goes_on_and_on_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_runs, "_MOST_SECONDS", 0.0)
    found = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    assert (found.rows, found.why) == (1, "trying it ended with: The run was stopped")


def test_what_a_process_died_of_is_not_tried_again(tmp_path: Path) -> None:
    note = tmp_path / "run" / "1.joining"
    note.parent.mkdir()
    note.touch()
    with pytest.raises(AssertionError):  # the note stays
        attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    (tmp_path / "again").mkdir()
    predictor = Predictor.open(tmp_path / "package", model="m", version=1, max_body_bytes=1 << 26)
    found = look(predictor, tmp_path / "package", MILLISECOND, note)
    assert (found.rows, found.why) == (1, "trying it ended with: A process died while it tried")


def test_rows_are_compared_with_what_each_was_answered_alone() -> None:
    alone = [np.array([[1.0, 2.0]]), np.array([[3.0, np.nan], [5.0, 6.0]])]
    together = np.concatenate(alone)
    assert same_rows(alone, together)
    assert same_rows(alone, together + 1e-7)
    assert not same_rows(alone, together + 1e-3)
    assert not same_rows(alone, together[::-1])
    assert not same_rows(alone, together[:2])
    assert not same_rows([np.array([1, 2])], np.array([1, 3]))
