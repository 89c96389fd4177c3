"""What the batching benchmark makes of its measurements, and where it puts them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import batching, batching_report
from benchmarks.batching import SYSTEMS, lacks, long_enough
from benchmarks.batching_report import LEGEND, for_docs, for_terminal, grids, write

FULL_RUN = {"quick": False, "systems": None, "only": None}


def result(rate: float = 40.0, lacks: tuple[str, ...] = ()) -> dict[str, Any]:
    window = {"p50_ms": 3695.0, "p99_ms": 15329.0, "errors": 0.0, "refused": 25.0, "refused_p99_ms": 8.0}
    kinds = [("mixed", 64), *(("full", level) for level in batching.SHARES)]
    return {
        "date": "2026-01-31", "commit": "1234", "machine": {"processor": "AMD EPYC", "cores": 2},
        "max_rows": 32, "max_length": 128, "outstanding": 64, "rows_per_request": 1, "seconds": 12.0, "rounds": 3,
        "lacks": list(lacks), "systems": {system.name: system.title for system in SYSTEMS},
        "limit": {"rows_per_second": 43.0, "batch_seconds": 0.745, "device": "cpu", "dtype": "fp32"},
        "windows": [
            {"load": kind, "system": system.name, "level": level, "rows_per_second": rate, **window}
            for system in SYSTEMS for kind, level in kinds
        ],
    }  # fmt: skip


def test_a_system_that_answered_nothing_has_no_ratio() -> None:
    mixed, _ = grids(result(rate=0.0))
    assert {row[2] for row in mixed.rows} == {"-"}


def test_a_question_that_was_not_asked_has_no_table() -> None:
    measured = result()
    measured["windows"] = [one for one in measured["windows"] if one["load"] == "full"]
    assert [grid.columns[1] for grid in grids(measured)] == ["offered"]


def test_tables_fit_a_terminal_of_80_columns() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        for grid in grids(result()):
            console.print(for_terminal(grid))
    shown = captured.get()
    assert "…" not in shown
    assert "Seaway, batches of 32 only" in shown
    assert "15,329" in shown
    assert max(len(line) for line in [*shown.splitlines(), LEGEND]) <= 80


def test_the_docs_and_the_legend_have_the_headings() -> None:
    assert "| system | offered | 1/s | of limit | p50 ms | p99 ms | batches | refused | in ms |" in for_docs(result())
    assert {"batches", "in ms"} <= set(grids(result())[1].columns)
    assert "batches:" in LEGEND
    assert "in ms:" in LEGEND


def test_a_measurement_holds_eight_full_batches() -> None:
    assert long_enough(12.0, 0.745) == 12.0
    assert long_enough(4.0, 0.745) == pytest.approx(5.96)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"systems": ",".join(system.name for system in SYSTEMS)}, []),
        ({"quick": True}, ["quick"]),
        ({"systems": "seaway"}, ["partial"]),
        ({"only": "full"}, ["partial"]),
        ({"quick": True, "only": "mixed"}, ["quick", "partial"]),
    ],
)
def test_a_run_knows_what_it_lacks(given: dict[str, Any], expected: list[str]) -> None:
    assert lacks(argparse.Namespace(**FULL_RUN | given)) == expected


def test_only_a_full_run_is_written_where_results_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching_report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(batching_report, "UNFINISHED", tmp_path / ".results")
    full = write(result())
    short = write(result(lacks=("quick", "partial")))
    assert [path.relative_to(tmp_path) for path in full] == [
        Path("results/2026-01-31-batching-amd-epyc.json"),
        Path("results/2026-01-31-batching-amd-epyc.svg"),
    ]
    assert [path.relative_to(tmp_path) for path in short] == [
        Path(".results/2026-01-31-batching-amd-epyc-quick-partial.json"),
        Path(".results/2026-01-31-batching-amd-epyc-quick-partial.svg"),
    ]


def test_a_result_without_curves_is_one_file(tmp_path: Path) -> None:
    measured = result(lacks=("partial",))
    measured["windows"] = [one for one in measured["windows"] if one["load"] == "mixed"]
    assert [path.suffix for path in write(measured, tmp_path)] == [".json"]


def test_a_quick_run_says_that_its_figures_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    batching.show(result(lacks=("quick",)), "Written: here", as_json=False)
    quick = capsys.readouterr()
    batching.show(result(), "Written: here", as_json=False)
    full = capsys.readouterr()
    assert "only show that it runs" in quick.err
    assert full.err == ""
    assert full.out.endswith(f"{LEGEND}\nWritten: here\n")


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    batching.show(result(), "Written: here", as_json=True)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == result()
    assert shown.err == "Written: here\n"
