"""What a terminal of 80 columns gets: whole words, and a hint where something is left out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from seaway.cli import table
from seaway.cli.app import app
from support.scripted import ScriptedServer
from support.shapes import experiment, live, model_version

Shown = Callable[..., list[str]]
HINT = "There is more than fits here; --json has all."


class Terminal(io.StringIO):
    """Standard output that is looked at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The lines that a command shows on a terminal of 80 columns, standard error at the end."""

    def run(*arguments: str) -> list[str]:
        monkeypatch.setenv("SEAWAY_URL", server.url)
        monkeypatch.setenv("TERM", "dumb")  # without colours, and 80 columns wide
        out, err = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        app(arguments, standalone_mode=False)
        return [line.rstrip() for line in f"{out.getvalue()}{err.getvalue()}".splitlines()]

    return run


def busy() -> dict[str, Any]:
    status = live()
    workers = [status["models"]["churn"]["workers"][0] | {"pid": pid} for pid in (4242, 4243)]
    status["models"]["churn"] |= {"workers": workers, "state": "UNAVAILABLE"}
    return {**status, "models": {f"{name}-of-customers-in-europe": status["models"]["churn"] for name in ("a", "b")}}


def test_status_has_a_line_for_each_model_and_drops_what_matters_less(server: ScriptedServer, shown: Shown) -> None:
    server.answers("GET /api/status", busy())

    heading, _, *rows = shown("status")

    assert heading.split()[:3] == ["model", "state", "version"]
    assert "memory" not in heading
    assert [row.split()[:3] for row in rows[:2]] == [
        [f"{name}-of-customers-in-europe", "UNAVAILABLE", "1"] for name in ("a", "b")
    ]
    assert all(len(row) <= 80 for row in rows[:2])
    assert rows[2] == HINT


def test_ids_are_short_on_a_terminal(server: ScriptedServer, shown: Shown) -> None:
    server.answers("GET /api/experiments", {"items": [experiment() | {"model": "m" * 30}], "next_cursor": None})

    heading, _, row, hint = shown("experiments")

    assert heading.split()[0] == "experiment"
    assert row.split()[:2] == ["e" * 12, "m" * 30]
    assert hint == HINT


def test_versions_of_a_model_keep_what_their_inputs_are(server: ScriptedServer, shown: Shown) -> None:
    version = model_version() | {"created_by": "anonymous"}
    version["signature"]["inputs"] *= 4
    server.answers("GET /api/models/churn", {"name": "churn", "aliases": {}, "versions": [version]})

    lines = shown("models", "churn")

    assert lines[0].split()[:2] == ["version", "inputs"]
    assert sum(line.count("FP32[*,4]") for line in lines) == 4
    assert all(len(line) <= 80 for line in lines)


def test_a_word_wider_than_its_column_ends_in_an_ellipsis(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    table.print_table(["model", "state"], [["m" * 100, "READY"]], empty="")

    assert out.getvalue().splitlines()[-1].rstrip() == "m" * 71 + "…   READY"
    assert err.getvalue() == f"{HINT}\n"


def test_two_columns_of_one_name_keep_their_own_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", out)

    table.print_table(["run", "run"], [["4 µs", "a " * 60]], empty="")

    first, second = out.getvalue().splitlines()[-2:]
    assert first.startswith("4 µs   a a")
    assert second.strip("a ") == ""


def test_what_fits_is_shown_without_a_hint(server: ScriptedServer, shown: Shown) -> None:
    server.answers("GET /api/models", {"items": [], "next_cursor": None})
    item = {"name": "churn", "description": "", "newest": 3, "n_versions": 3, "aliases": {"champion": 2}}
    server.answers("GET /api/models", {"items": [item], "next_cursor": None})

    assert HINT not in shown("models")


def test_a_log_on_a_terminal_is_readable_and_obeyed_by_none(server: ScriptedServer, shown: Shown) -> None:
    server.answers("GET /api/logs", {"lines": [json.dumps({"took": "4 µs", "path": "\x1b[2J"}), "cut"]})

    assert shown("logs") == ['{"took": "4 µs", "path": "\\u001b[2J"}', "cut"]
