"""register, models, alias."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from support.scripted import ScriptedServer
from support.shapes import model_version

Seaway = Callable[..., Result]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    return tmp_path


def test_register_says_the_version_and_what_comes_next(server: ScriptedServer, seaway: Seaway, package: Path) -> None:
    server.answers("POST /api/models/churn/versions", model_version(3), status=201)

    done = seaway("register", "churn", str(package), "--description", "new")

    assert done.stdout == "churn version 3 is registered. Serve it: seaway deploy churn 3\n"
    assert b'filename="model.onnx"' in server.asked[0].body
    assert done.stderr == ""


def test_register_says_which_outputs_are_left_out(server: ScriptedServer, seaway: Seaway, package: Path) -> None:
    version = model_version(3)
    why = "no tensor; export with zipmap=False to have it"
    version["signature"]["left_out"] = [{"name": "output_probability", "why": why}]
    server.answers("POST /api/models/churn/versions", version, status=201)

    lines = seaway("register", "churn", str(package)).stdout.splitlines()

    assert lines[1:] == [
        "Left out: output_probability, which is no tensor; export with zipmap=False to have it.",
    ]
    assert json.loads(seaway("register", "churn", str(package), "--json").stdout) == version


def test_an_older_server_says_nothing_of_outputs_left_out(
    server: ScriptedServer, seaway: Seaway, package: Path
) -> None:
    version = model_version(3)
    del version["signature"]["left_out"]
    server.answers("POST /api/models/churn/versions", version, status=201)

    assert seaway("register", "churn", str(package)).stdout.endswith("seaway deploy churn 3\n")


def test_register_tells_known_bytes(server: ScriptedServer, seaway: Seaway, package: Path) -> None:
    server.answers("POST /api/models/churn/versions", model_version(1), status=200)

    assert "version 1 is already there" in seaway("register", "churn", str(package / "model.onnx")).stdout


@pytest.mark.parametrize("metrics", ['{"auc": 0.9}', "@metrics.json"])
def test_metrics_are_written_out_or_in_a_file(
    server: ScriptedServer, seaway: Seaway, package: Path, monkeypatch: pytest.MonkeyPatch, metrics: str
) -> None:
    server.answers("POST /api/models/churn/versions", model_version(1), status=201)
    (package / "metrics.json").write_text('{"auc": 0.9}')
    monkeypatch.chdir(package)

    assert seaway("register", "churn", "model.onnx", "--experiment", "e", "--metrics", metrics).exit_code == 0
    assert b'{"auc": 0.9}' in server.asked[0].body


@pytest.mark.parametrize("metrics", ["0.9", "{", "@nowhere.json", "@."])
def test_wrong_metrics_are_wrong_usage(server: ScriptedServer, seaway: Seaway, package: Path, metrics: str) -> None:
    done = seaway("register", "churn", str(package), "--metrics", metrics)

    assert done.exit_code == 2
    assert not server.asked


def test_a_path_that_is_not_there_is_wrong_usage(seaway: Seaway) -> None:
    done = seaway("register", "churn", "no/such/model.onnx")

    assert done.exit_code == 2
    assert "does not exist" in done.stderr


def test_a_refused_package_says_why(server: ScriptedServer, seaway: Seaway, package: Path) -> None:
    server.answers("POST /api/models/churn/versions", {"error": "model.onnx is no ONNX model."}, status=400)

    done = seaway("register", "churn", str(package))

    assert (done.exit_code, done.stderr) == (1, "Error: model.onnx is no ONNX model.\n")


def test_models_are_listed_with_their_aliases(server: ScriptedServer, seaway: Seaway) -> None:
    item = {"name": "churn", "description": "", "newest": 3, "n_versions": 3, "aliases": {"champion": 2}}
    server.answers("GET /api/models", {"items": [item], "next_cursor": None})

    row = seaway("models").stdout.splitlines()[-1]

    assert row.split() == ["churn", "3", "3", "champion", "->", "2", "-"]


def test_a_model_is_shown_with_its_signature(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/models/churn", {"name": "churn", "aliases": {}, "versions": [model_version()]})

    row = seaway("models", "churn").stdout.splitlines()[-1]

    assert "x FP32[*,4]" in row
    assert "y FP32[*]" in row
    assert "1.5 MB" in row
    assert "2026-03-01 12:00:00 UTC" in row


def test_an_alias_is_moved(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/models/churn/aliases/champion", {"name": "champion", "version": 2})

    assert seaway("alias", "churn", "champion", "2", "--reason", "won").stdout == "churn champion is version 2 now.\n"
    assert server.asked[0].json == {"version": 2, "reason": "won"}


def test_aliases_are_listed_shown_and_removed(server: ScriptedServer, seaway: Seaway) -> None:
    alias = {"name": "champion", "version": 2, "updated_at": "2026-03-01T12:00:00Z", "updated_by": "ana"}
    server.answers("GET /api/models/churn/aliases", {"items": [alias], "next_cursor": None})
    server.answers("GET /api/models/churn/aliases/champion", {"model": "churn", "name": "champion", "version": 2})
    server.answers("DELETE /api/models/churn/aliases/champion", {"model": "churn", "name": "champion", "version": None})

    assert "champion" in seaway("alias", "churn").stdout
    assert seaway("alias", "churn", "champion").stdout == "churn champion is version 2.\n"
    assert seaway("alias", "churn", "champion", "--delete").stdout == "churn has no alias champion any more.\n"


def test_the_history_of_an_alias_is_shown(server: ScriptedServer, seaway: Seaway) -> None:
    event = {
        "model": "churn", "alias": "champion", "from_version": None, "to_version": 2, "at": "2026-03-01T12:00:00Z",
        "by": "ana", "reason": "won",
    }  # fmt: skip
    server.answers("GET /api/models/churn/aliases/champion/history", {"items": [event], "next_cursor": None})

    row = seaway("alias", "churn", "champion", "--history").stdout.splitlines()[-1]

    assert row.split() == ["2026-03-01", "12:00:00", "UTC", "-", "2", "ana", "won"]


@pytest.mark.parametrize("typed", [["--delete"], ["--history"], ["a", "2", "--delete"], ["a", "--delete", "--history"]])
def test_alias_options_that_contradict_each_other_are_wrong_usage(
    server: ScriptedServer, seaway: Seaway, typed: list[str]
) -> None:
    assert seaway("alias", "churn", *typed).exit_code == 2
    assert not server.asked


def test_json_is_all_that_stdout_gets(server: ScriptedServer, seaway: Seaway, package: Path) -> None:
    server.answers("POST /api/models/churn/versions", model_version(3), status=201)

    done = seaway("register", "churn", str(package), "--json")

    assert json.loads(done.stdout) == model_version(3)
