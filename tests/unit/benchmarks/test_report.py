"""What the plot of the benchmark shows."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks import aims
from benchmarks.report import _panels, grids, print_tables


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


WINDOW = {
    "requests_per_second": 1190.0, "cpu_seconds_per_1000": 1.451, "generator_seconds_per_1000": 0.0696,
    "p50_ms": 6.4, "p99_ms": 14.92, "p999_ms": 1026.5, "errors": 0,
}  # fmt: skip


def measured() -> dict[str, Any]:
    shape = {"wire": "json", "load": "closed", "variant": "", "beside": "", "model": "minilm_int8", "level": 8}
    limit = WINDOW | {"requests_per_second": 1400.0}
    return {
        "date": "2026-01-31", "commit": "1234", "skipped": {}, "settings": {"rounds": 3, "window_seconds": 2.0},
        "machine": {"processor": "AMD EPYC", "cores": 2, "memory_gib": 24, "python": "3.11"},
        "titles": {"onnxruntime": "ONNX Runtime alone", "seaway-apart": "Seaway, connections stay"},
        "systems": {"seaway-apart": {"start_seconds": 7.17, "memory_mib": 1113.0, "processes": 17}},
        "cells": [
            shape | {"system": "onnxruntime", "group": "limit", "medians": limit},
            shape | {"system": "seaway-apart", "group": "int8", "medians": WINDOW},
        ],
    }  # fmt: skip


def test_models_that_take_long_are_held_against_onnx_runtime_alone() -> None:
    _, quantized, _ = grids(measured())
    shown = dict(zip(quantized.columns, quantized.rows[-1], strict=True))
    assert shown["of limit"] == "85%"
    assert shown["p99 turns"] == "2.6"  # 14.92 ms; 8 requests take 5.71 ms


def test_the_limit_says_what_p99_no_server_can_get_below() -> None:
    result = measured()
    limit, _, _ = grids(result)
    assert dict(zip(limit.columns, limit.rows[-1], strict=True))["p99 of 8 in line, turns"] == "-", "an older result"
    result["cells"][0]["medians"]["line_p99_ms"] = 6.857  # 8 requests take 5.714 ms
    limit, _, _ = grids(result)
    assert dict(zip(limit.columns, limit.rows[-1], strict=True))["p99 of 8 in line, turns"] == "1.2"


def test_without_that_limit_there_is_no_figure() -> None:
    result = measured()
    del result["cells"][0]
    quantized, _ = grids(result)
    assert quantized.rows[-1][-2:] == ("-", "-")


def test_tables_fit_a_terminal_of_80_columns() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        print_tables(measured(), console)
    shown = captured.get()
    assert "…" not in shown
    assert "Seaway, connections stay" in shown
    assert "1,026" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_seaway_is_told_what_it_came_to_beside_its_aims() -> None:
    result = measured()
    result["cells"][1]["system"] = "seaway"
    assert aims.rows(result) == [
        ("minilm_int8 at 8: requests/s", "85% of ONNX Runtime alone", "at least 92%"),
        ("minilm_int8 at 8: p99", "2.61 turns", "at most 1.5"),
    ]


def test_an_aim_whose_other_side_was_not_measured_is_left_out() -> None:
    tabular = WINDOW | {"cpu_seconds_per_1000": 0.03}
    cells = [cell("seaway", "tabular", "", 1.0, load="closed", level=8, model="tabular")]
    cells[0]["medians"] = tabular
    result = {"cells": cells, "titles": {"constant": "constant answer"}}
    assert aims.rows(result) == []
    cells.append({**cells[0], "system": "constant", "medians": tabular | {"cpu_seconds_per_1000": 0.02}})
    assert aims.rows(result) == [("tabular at 8: CPU", "1.50 of constant answer", "at most 1.5")]
