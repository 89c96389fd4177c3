"""What the plot of the benchmark shows."""

from __future__ import annotations

from typing import Any

from benchmarks.report import _panels


def cell(system: str, group: str, beside: str, p99_ms: float, **more: Any) -> dict[str, Any]:
    medians = {"p99_ms": p99_ms, "cpu_seconds_per_1000": 0.03}
    kind = {"load": "open", "level": 300, "variant": "", "wire": "json"}
    return {"system": system, "group": group, "beside": beside, "medians": medians} | kind | more


def test_beside_a_slow_model_is_held_against_alone() -> None:
    cells = [cell("seaway", "isolation", "slow", 3.7), cell("seaway", "isolation", "", 1.8)]
    cells += [cell("seaway", "tabular", "", 1.0, load="closed", level=8)]
    processor, isolation = _panels({"cells": cells})
    assert processor[1:] == ({"seaway": 0.03}, {})
    assert isolation[1:] == ({"seaway": 3.7}, {"seaway": 1.8})


def test_what_was_not_measured_is_no_panel() -> None:
    assert _panels({"cells": []}) == []
