"""profile: measured on the server, shown as tables, bars, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from seaway.cli import plot
from support.scripted import ScriptedServer
from support.shapes import model_version

Seaway = Callable[..., Result]
PATH = "/api/models/churn/versions/2/profile"
CURVES = {
    "load_seconds": 0.07, "memory_bytes": 94_000_000, "peak_memory_bytes": 258_000_000,
    "rows": [
        {"rows": rows, "prepare_us": 10.0 * rows, "run_us": 4.0 * rows, "encode_us": 6.0 * rows} for rows in (1, 2, 4)
    ],
    "lengths": [{"tokens": 8, "prepare_us": 100.0, "run_us": 2400.0, "encode_us": 90.0}],
    "engines": [{"engines": 1, "requests_per_second": 400.0}, {"engines": 2, "requests_per_second": 780.0}],
    "threads": [{"threads": 1, "run_us": 2400.0}, {"threads": 2, "run_us": 1800.0}],
    "rewritten": False,
}  # fmt: skip


def profile(state: str, *, reason: str = "", done: bool = False) -> dict[str, Any]:
    result = {
        "machine": "x86_64 <EPYC>, 2 cores", "curves": CURVES, "created_at": "2026-03-01T12:00:00Z", "created_by": "ana"
    }  # fmt: skip
    return {
        "model": "churn", "version": 2, "digest": "d" * 64, "state": state, "reason": reason, "step": "4 rows",
        "progress": 0.5, "result": result if done else None, "graph": None, "joint": None,
        "batches": None,
    }  # fmt: skip


def test_it_waits_for_the_result_and_shows_the_curves(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST " + PATH, profile("running"))
    server.answers("GET " + PATH, profile("running"))
    server.answers("GET " + PATH, profile("done", done=True))

    done = seaway("profile", "churn", "--version", "2")

    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert "loads in 0.07 s; takes 94.0 MB, at most 258.0 MB" in done.stdout
    assert ["1", "10", "µs", "4", "µs", "6", "µs", "50,000", "██████"] in lines
    assert ["8", "100", "µs", "2.4", "ms", "90", "µs", "386", "█" * 24] in lines
    assert ["2", "780", "█" * 24] in lines
    assert ["2", "1.8", "ms", "█" * 18] in lines
    assert "churn version 2 on x86_64 <EPYC>, 2 cores" in done.stderr


def test_without_a_version_it_is_the_newest(server: ScriptedServer, seaway: Seaway) -> None:
    versions = [model_version(1), model_version(2)]
    server.answers("GET /api/models/churn", {"name": "churn", "aliases": {}, "versions": versions})
    server.answers("POST " + PATH, profile("done", done=True))
    assert seaway("profile", "churn").exit_code == 0


def test_a_model_without_versions_has_nothing_to_measure(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/models/churn", {"name": "churn", "aliases": {}, "versions": []})
    done = seaway("profile", "churn")
    assert (done.exit_code, done.stderr) == (1, "Error: Model 'churn' has no version yet.\n")


@pytest.mark.parametrize("wanted", [["--json"], []])
def test_a_failure_is_told(server: ScriptedServer, seaway: Seaway, wanted: list[str]) -> None:
    server.answers("POST " + PATH, profile("failed", reason="It fell over."))
    done = seaway("profile", "churn", "--version", "2", *wanted)
    assert (done.exit_code, done.stderr) == (1, "Error: churn version 2: It fell over.\n")
    assert (json.loads(done.stdout)["state"] if wanted else done.stdout) == ("failed" if wanted else "")


def test_what_is_stored_is_shown_without_measuring(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET " + PATH, profile("done", done=True))
    done = seaway("profile", "churn", "--version", "2", "--stored", "--json")
    assert json.loads(done.stdout) == profile("done", done=True)
    assert [asked.method for asked in server.asked] == ["GET"]


def test_the_first_one_that_still_runs_has_nothing_to_show(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET " + PATH, profile("running"))
    assert "first time" in seaway("profile", "churn", "--version", "2", "--stored").stdout


def test_the_picture_is_a_file_of_its_own(server: ScriptedServer, seaway: Seaway, tmp_path: Path) -> None:
    server.answers("GET " + PATH, profile("done", done=True))
    file = tmp_path / "curves.svg"
    assert seaway("profile", "churn", "--version", "2", "--stored", "--svg", str(file)).exit_code == 0
    root = ElementTree.parse(file).getroot()
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"churn version 2 on x86_64 <EPYC>, 2 cores", "Milliseconds by rows", "Milliseconds by tokens"} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 3 + 3 + 1 + 1


@pytest.mark.parametrize(("value", "bar"), [(0, ""), (4, "████"), (2, "██"), (0.5, "▌"), (3.999, "████")])
def test_a_bar_is_as_long_as_its_value(value: float, bar: str) -> None:
    assert plot.bar(value, 4, width=4) == bar


BATCHES = {
    "machine": "x86_64 <EPYC>, 2 cores", "device": "cuda:0", "dtype": "bf16",
    "max_difference": 0.0123, "min_cosine": 0.99987,
    "points": [
        {"rows": 1, "tokens": 8, "run_us": 1000.0, "memory_bytes": 1},
        {"rows": 64, "tokens": 8, "run_us": 4000.0, "memory_bytes": 2},
        {"rows": 1, "tokens": 128, "run_us": 2000.0, "memory_bytes": 3},
        {"rows": 64, "tokens": 128, "run_us": None, "memory_bytes": 4},
    ],
}  # fmt: skip


GRAPH = {
    "used": True, "what": "12 SkipLayerNormalization", "exported_ns": 4_600_000, "rewritten_ns": 4_300_000,
    "max_difference": 1.2e-7, "why": "", "doubt": "",
}  # fmt: skip


def test_what_rewriting_gained_is_shown_and_that_the_curves_are_of_another_graph(
    server: ScriptedServer, seaway: Seaway
) -> None:
    server.answers("GET " + PATH, profile("done", done=True) | {"graph": GRAPH})
    done = seaway("profile", "churn", "--version", "2", "--stored")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "served rewritten (12 SkipLayerNormalization): a run takes 4.3 ms instead of 4.6 ms" in said
    assert "These curves were measured with its graph as exported" in said


def test_what_rewriting_would_gain_is_shown_where_it_is_not_done(server: ScriptedServer, seaway: Seaway) -> None:
    left = GRAPH | {"used": False, "why": "its graph rounds (Floor)", "max_difference": None}
    server.answers("GET " + PATH, profile("done", done=True) | {"graph": left})
    said = " ".join(seaway("profile", "churn", "--version", "2", "--stored").stderr.split())
    assert "a run would take 4.3 ms instead of 4.6 ms, but its graph rounds (Floor); answers would differ" in said
    assert "These curves" not in said


@pytest.mark.parametrize("done", [False, True], ids=["not profiled", "profiled"])
def test_how_many_samples_share_a_run_is_shown(done: bool, server: ScriptedServer, seaway: Seaway) -> None:
    joint = {"rows": 8, "numbers": 256, "alone_ns": 4_100_000, "together_ns": 3_000_000, "why": ""}
    server.answers("GET " + PATH, profile("done", done=done) | {"joint": joint})
    told = seaway("profile", "churn", "--version", "2", "--stored")
    said = " ".join(told.stderr.split())
    assert told.exit_code == 0
    assert ("never profiled" in told.stdout) is not done
    assert "Up to 8 samples of one shape that wait share a run (unless joint_runs is never)" in said
    assert "where a sample takes 3 ms of CPU time instead of 4.1 ms" in said
    assert "as many as have 256 numbers together" in said


def test_why_requests_run_alone_is_shown(server: ScriptedServer, seaway: Seaway) -> None:
    joint = {"rows": 1, "numbers": 0, "alone_ns": 0, "together_ns": 0, "why": "a run is too short for that"}
    server.answers("GET " + PATH, profile("done", done=True) | {"joint": joint})
    told = seaway("profile", "churn", "--version", "2", "--stored").stderr
    assert "Each request runs alone: a run is too short for that" in told


@pytest.mark.parametrize("measured", [False, True])
def test_what_batches_cost_is_shown_with_or_without_a_profile(
    measured: bool, server: ScriptedServer, seaway: Seaway, tmp_path: Path
) -> None:
    server.answers("GET " + PATH, profile("done", done=measured) | {"batches": BATCHES})

    done = seaway("profile", "churn", "--version", "2", "--stored", "--svg", str(tmp_path / "a.svg"))

    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["1", "8", "1", "ms", "1,000", "█▌"] in lines
    assert ["64", "8", "4", "ms", "16,000", "█" * 24] in lines
    assert ["64", "128", "no", "memory", "-"] in lines
    assert "on cuda:0 in bf16" in done.stderr
    assert "at most 0.0123; cosine at least 0.99987" in done.stderr
    drawn = (tmp_path / "a.svg").read_text()
    assert "Samples/s by rows of a batch" in drawn
    assert ">8 tokens</text>" in drawn
    assert ">128 tokens</text>" in drawn


def test_a_header_leaves_out_what_is_automatic(server: ScriptedServer, seaway: Seaway) -> None:
    batches = BATCHES | {"machine": "x86_64; batches of 32 on cpu in auto", "device": "auto", "dtype": "auto"}
    server.answers("GET " + PATH, profile("done") | {"batches": batches})

    said = seaway("profile", "churn", "--version", "2", "--stored").output

    assert "x86_64; batches of 32 on cpu\n" in said
    assert "Batches, as measured when" in said
