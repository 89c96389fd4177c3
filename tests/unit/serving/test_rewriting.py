"""Whether a graph is served rewritten: only where that is faster and answers stay what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.support import graphs

from seaway.serving import rewriting
from seaway.serving.predictor import Predictor
from seaway.serving.rewriting import try_rewritten
from seaway.types import Rewriting

WIDE = 200_000
"""Numbers in a row: so many that what a rule gains is far above what a busy machine moves."""


def attempt(directory: Path, model: bytes, *, uncertain: bool = False) -> tuple[Predictor, Rewriting | None]:
    found = attempt_again(directory, model, uncertain=uncertain)
    assert not (directory.parent / "run" / "1.rewriting").exists()
    return found


def attempt_again(directory: Path, model: bytes, *, uncertain: bool = False) -> tuple[Predictor, Rewriting | None]:
    """As `attempt`, where something was left or is left behind."""
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(model)

    def open_it(*, rewritten: bool) -> Predictor:
        return Predictor.open(directory, model="m", version=1, max_body_bytes=1 << 26, rewritten=rewritten)

    note = directory.parent / "run" / "1.rewriting"
    return try_rewritten(
        open_it(rewritten=False), directory, lambda: open_it(rewritten=True), note, uncertain=uncertain
    )


def test_a_graph_that_is_faster_and_answers_the_same_is_served_rewritten(tmp_path: Path) -> None:
    predictor, found = attempt(tmp_path / "m", graphs.hard_swishes(6, ("n", WIDE)))
    assert found is not None
    assert (found.used, found.what, found.why, predictor.rewritten) == (True, "6 hard swish", "", True)
    assert found.rewritten_ns < found.exported_ns
    assert found.max_difference is not None
    assert found.max_difference < 1e-5


def test_a_graph_that_rounds_is_served_rewritten_only_by_leave(tmp_path: Path) -> None:
    model = graphs.skip_layer_norms(3, 1024, rounded=True)
    predictor, found = attempt(tmp_path / "m", model)
    assert found is not None
    assert (found.used, predictor.rewritten) == (False, False)
    assert "its graph rounds (DynamicQuantizeLinear)" in found.why
    predictor, found = attempt(tmp_path / "m", model, uncertain=True)
    assert found is not None
    assert (found.used, found.why, predictor.rewritten) == (True, "", True)


def test_a_graph_with_nothing_to_rewrite_is_left_alone(tmp_path: Path) -> None:
    predictor, found = attempt(tmp_path / "m", graphs.linear(np.eye(4)))
    assert found is None
    assert not predictor.rewritten


def test_a_rule_that_changes_answers_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule with a mistake, put in place of a right one."""
    from seaway.runtimes import onnx_rewrite

    def wrong(graph: onnx_rewrite._Graph) -> int:
        found = onnx_rewrite._join_hard_swish(graph)
        graph.settle()
        for node in graph.nodes:
            for attribute in node.attribute:
                attribute.f += 0.001
        return found

    monkeypatch.setitem(onnx_rewrite.RULES, "hard swish", wrong)
    predictor, found = attempt(tmp_path / "m", graphs.hard_swishes(6, ("n", WIDE)))
    assert found is not None
    assert (found.used, found.why, predictor.rewritten) == (False, "its answers ('y') would be others", False)


def test_a_graph_that_is_no_faster_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "WORTH", 0.0)
    predictor, found = attempt(tmp_path / "m", graphs.hard_swishes(6))
    assert found is not None
    assert (found.used, found.why, predictor.rewritten) == (False, "it is no faster so", False)


def test_whole_numbers_made_of_what_was_rewritten_are_never_others(tmp_path: Path) -> None:
    """By leave, numbers may differ; what was counted, or chosen, may not."""
    shape = ("n", WIDE)
    nodes = [
        ("Add", ["x", "three"], ["t"], {}), ("Clip", ["t", "zero", "six"], ["c"], {}), ("Mul", ["x", "c"], ["p"], {}),
        ("Div", ["p", "six"], ["s"], {}), ("Mul", ["s", "million"], ["m"], {}), ("Round", ["m"], ["r"], {}),
        ("Cast", ["r"], ["y"], {"to": graphs.INT64}),
    ]  # fmt: skip
    numbers = {"three": 3, "zero": 0, "six": 6, "million": 1e6}
    weights = {name: np.array(value, np.float32) for name, value in numbers.items()}
    model = graphs.model(nodes, [("x", graphs.FLOAT, shape)], [("y", graphs.INT64, shape)], weights)
    for uncertain in (False, True):
        predictor, found = attempt(tmp_path / "m", model, uncertain=uncertain)
        assert found is None or not found.used
        assert not predictor.rewritten


def test_a_model_that_goes_on_and_on_is_served_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_MOST_SECONDS", 0.0)
    predictor, found = attempt_again(tmp_path / "m", graphs.hard_swishes(6, ("n", WIDE)))
    assert (predictor.rewritten, found) == (False, None)


def test_what_a_process_died_of_is_not_tried_again(tmp_path: Path) -> None:
    note = tmp_path / "run" / "1.rewriting"
    note.parent.mkdir()
    note.touch()
    predictor, found = attempt_again(tmp_path / "m", graphs.hard_swishes(6, ("n", WIDE)))
    assert (predictor.rewritten, found, note.exists()) == (False, None, True)
