"""Which versions have joint runs: those that gain by it, and whose samples don't see one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import graphs

from seaway.errors import InvalidRequest
from seaway.runtimes.base import RunHandle
from seaway.serving import joint_runs
from seaway.serving.joint_runs import look, same_rows
from seaway.serving.predictor import Predictor
from seaway.types import JointRuns

SIZE = 512
MILLISECOND = 1_000_000
WEIGHTS = np.random.default_rng(3).normal(0, 0.04, (SIZE, SIZE)).astype(np.float32)
"""A sample alone has to fetch all of them, so that several together are much faster."""


def attempt(directory: Path, model: bytes, *, run_ns: int = MILLISECOND) -> JointRuns:
    package = directory / "package"
    package.mkdir()
    (package / "model.onnx").write_bytes(model)
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


TURNED = [("Transpose", ["p"], ["t"], {"perm": [1, 0]})]
BACK = [("Transpose", ["u"], ["y"], {"perm": [1, 0]})]
MIXING: dict[str, list[Any]] = {
    "mean": [*TURNED, ("ReduceMean", ["t", "one"], ["m"], {}), ("Sub", ["t", "m"], ["u"], {}), *BACK],
    "share": [*TURNED, ("Softmax", ["t"], ["u"], {"axis": 1}), *BACK],
    "sum": [*TURNED, ("CumSum", ["t", "at"], ["u"], {}), *BACK],
    "largest, if it is large": [
        *TURNED, ("ReduceMax", ["t", "one"], ["m"], {}), ("Less", ["m", "large"], ["small"], {}),
        ("Where", ["small", "t", "m"], ["u"], {}), *BACK,
    ],
}  # fmt: skip
MIXING["largest, if it is huge"] = [
    *TURNED, ("ReduceMax", ["t", "one"], ["m"], {}), ("Less", ["m", "huge"], ["small"], {}),
    ("Mul", ["t", "half"], ["h"], {}), ("Where", ["small", "t", "h"], ["u"], {}), *BACK,
]  # fmt: skip
CONSTANTS = {
    "one": np.array([1]), "at": np.array(1), "zero": np.array([0]), "first": np.array(0),
    "large": np.float32(500), "huge": np.float32(1e6), "half": np.float32(0.5),
    "lowest": np.float32(200), "start": np.array([0]), "stop": np.array([1]), "minus": np.array([-1]),
}  # fmt: skip


def with_constants(nodes: list[Any]) -> bytes:
    taken = {name for node in nodes for name in node[1]}
    return products(nodes, **{name: value for name, value in CONSTANTS.items() if name in taken})


@pytest.mark.parametrize("how", MIXING)
def test_a_model_whose_samples_see_one_another_has_none_however_its_axes_are_turned(tmp_path: Path, how: str) -> None:
    found = attempt(tmp_path, with_constants(MIXING[how]))
    assert found.rows == 1
    assert "its answers ('y') would be others" in found.why


def test_a_click_in_one_sample_is_heard_where_samples_are_made_equally_loud_first(tmp_path: Path) -> None:
    names = ["u", *(f"p{number}" for number in range(5)), "y"]
    nodes = [
        ("LayerNormalization", ["x", "ones"], ["l"], {}), ("IsNaN", ["l"], ["nan"], {}),
        ("Where", ["nan", "zeros", "l"], ["z"], {}), ("Transpose", ["z"], ["t"], {"perm": [1, 0]}),
        ("ReduceMax", ["t", "one"], ["m"], {}), ("Less", ["m", "eight"], ["quiet"], {}),
        ("Mul", ["t", "half"], ["h"], {}), ("Where", ["quiet", "t", "h"], ["g"], {}),
        ("Transpose", ["g"], ["u"], {"perm": [1, 0]}),
        *(("MatMul", [names[at], "w"], [names[at + 1]], {}) for at in range(6)),
    ]  # fmt: skip
    constants = {
        "ones": np.ones(SIZE, np.float32), "zeros": np.float32(0), "one": np.array([1]), "eight": np.float32(8),
        "half": np.float32(0.5), "w": WEIGHTS,
    }  # fmt: skip
    vector = ("n", SIZE)
    model = graphs.model(nodes, [("x", graphs.FLOAT, vector)], [("y", graphs.FLOAT, vector)], constants)
    found = attempt(tmp_path, model)
    assert found.rows == 1
    assert "would be others" in found.why


ACROSS: dict[str, list[Any]] = {
    "ReduceMean": [("ReduceMean", ["p", "zero"], ["m"], {}), ("Sub", ["p", "m"], ["y"], {})],
    "ReduceMax": [("ReduceMax", ["p"], ["m"], {}), ("Max", ["p", "m"], ["y"], {})],
    "Softmax": [("Softmax", ["p"], ["y"], {"axis": 0})],
    "CumSum": [("CumSum", ["p", "first"], ["y"], {})],
}


@pytest.mark.parametrize("operator", ACROSS)
def test_a_graph_that_works_across_samples_has_none_whatever_a_trial_would_show(tmp_path: Path, operator: str) -> None:
    found = attempt(tmp_path, with_constants(ACROSS[operator]))
    assert (found.rows, found.why) == (1, f"with {operator} a sample's answer could depend on the others")


def whole_numbers(nodes: list[Any], kind: int) -> bytes:
    """As `products`, of whole numbers that become fractions `f`, and `nodes` from there to `x`."""
    names = ["x", *(f"p{number}" for number in range(5)), "y"]
    last = [("MatMul", [names[at], "w"], [names[at + 1]], {}) for at in range(6)]
    taken = {name for node in nodes for name in node[1]}
    constants = {"w": WEIGHTS} | {name: value for name, value in CONSTANTS.items() if name in taken}
    return graphs.model(
        [("Cast", ["i"], ["f"], {"to": graphs.FLOAT}), *nodes, *last],
        [("i", kind, ("n", SIZE))], [("y", graphs.FLOAT, ("n", SIZE))], constants,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [graphs.UINT8, graphs.INT64])
def test_whole_numbers_are_tried_as_large_as_they_may_be(tmp_path: Path, kind: int) -> None:
    nodes = [
        ("Transpose", ["f"], ["t"], {"perm": [1, 0]}), ("ReduceMax", ["t", "one"], ["m"], {}),
        ("Transpose", ["m"], ["largest"], {"perm": [1, 0]}), ("Clip", ["largest", "lowest"], ["c"], {}),
        ("Div", ["f", "c"], ["x"], {}),
    ]  # fmt: skip
    assert "would be others beside numbers of" in attempt(tmp_path, whole_numbers(nodes, kind)).why


def test_what_is_refused_alone_isnt_answered_in_company(tmp_path: Path) -> None:
    """A neighbour's row, by an index that none has when alone."""
    nodes = [
        ("Slice", ["i", "start", "stop", "one"], ["where"], {}), ("Transpose", ["f"], ["t"], {"perm": [1, 0]}),
        ("Squeeze", ["where", "one"], ["index"], {}), ("Gather", ["t", "index"], ["g"], {"axis": 1}),
        ("Transpose", ["g"], ["x"], {"perm": [1, 0]}),
    ]  # fmt: skip
    assert "would be" in attempt(tmp_path, whole_numbers(nodes, graphs.INT64)).why


class Answers:
    """A session that refuses tiny numbers, but not beside others."""

    def run(self, feeds: Any, names: Any, handle: Any) -> Any:
        if len(feeds["x"]) == 1 and abs(feeds["x"]).max() < 1e-2:
            raise InvalidRequest("Too small.")
        return [feeds["x"] * 2]


def test_what_is_refused_alone_and_answered_in_company_is_noticed() -> None:
    class Opened:
        session = Answers()

    first = {"x": np.ones((1, 3), np.float32)}
    found = joint_runs._notices(Opened(), first, ["y"], RunHandle())  # type: ignore[arg-type]
    assert found == "what is refused alone would be answered in company"


def test_graphs_of_sizes_and_tables_are_no_obstacle(tmp_path: Path) -> None:
    nodes = [
        ("Shape", ["p"], ["s"], {}), ("Gather", ["s", "first"], ["n"], {"axis": 0}),
        ("Unsqueeze", ["n", "zero"], ["one_n"], {}), ("Concat", ["one_n", "minus"], ["shape"], {"axis": 0}),
        ("ReduceProd", ["s"], ["all"], {}), ("Reshape", ["p", "shape"], ["y"], {}),
    ]  # fmt: skip
    assert attempt(tmp_path, with_constants(nodes)).why == ""


def test_texts_and_large_samples_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(tmp_path, graphs.columns()).why == "it takes or gives texts"
    (tmp_path / "large").mkdir()
    monkeypatch.setattr(joint_runs, "_MANY_NUMBERS", SIZE - 1)
    found = attempt(tmp_path / "large", products([("Tanh", ["p"], ["y"], {})]))
    assert found.why == "its samples are too large for that"


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
    assert attempt(tmp_path, graphs.linear(np.eye(4), batch=1)).why == "the model takes one sample at a time"


def test_what_is_no_faster_together_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_runs, "_WORTH_MORE", 0.0)
    found = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    assert (found.rows, found.why) == (1, "it is no faster so")


def test_a_trial_that_goes_on_and_on_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_runs, "_MOST_SECONDS", 0.0)
    found = attempt(tmp_path, products([("Tanh", ["p"], ["y"], {})]))
    assert (found.rows, found.why) == (1, "trying it ended with: It took too long")


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
