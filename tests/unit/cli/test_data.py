"""datasets, experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from support.scripted import ScriptedServer
from support.shapes import dataset_version, experiment

Seaway = Callable[..., Result]


def test_a_dataset_is_added(server: ScriptedServer, seaway: Seaway, tmp_path: Path) -> None:
    (tmp_path / "customers.csv").write_text("a\n1\n")
    server.answers("POST /api/datasets/customers/versions", dataset_version(), status=201)

    done = seaway("datasets", "add", "customers", str(tmp_path / "customers.csv"), "--source", '{"table": "c"}')

    assert done.stdout == "customers version 1 is registered.\n"
    assert b'{"table": "c"}' in server.asked[0].body


@pytest.mark.parametrize("typed", [["datasets"], ["datasets", "show"]])
def test_datasets_are_listed(server: ScriptedServer, seaway: Seaway, typed: list[str]) -> None:
    item = {"name": "customers", "description": "", "newest": 4}
    server.answers("GET /api/datasets", {"items": [item], "next_cursor": None})

    assert seaway(*typed).stdout.splitlines()[-1].split() == ["customers", "4", "-"]


@pytest.mark.parametrize("typed", [["datasets", "customers"], ["datasets", "show", "customers"]])
def test_a_dataset_is_shown_with_its_versions(server: ScriptedServer, seaway: Seaway, typed: list[str]) -> None:
    server.answers("GET /api/datasets/customers", {"name": "customers", "versions": [dataset_version()]})

    row = seaway(*typed).stdout.splitlines()[-1].split()

    assert row == ["1", "1234", "1", "1.5", "MB", "d" * 12, "2026-03-01", "12:00:00", "UTC", "ana"]


def test_a_dataset_named_like_a_command_can_be_shown(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/datasets/add", {"name": "add", "versions": [dataset_version()]})

    assert seaway("datasets", "show", "add").exit_code == 0


def test_experiments_are_listed_with_what_they_gave(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/experiments", {"items": [experiment()], "next_cursor": None})

    row = seaway("experiments").stdout.splitlines()[-1].split()

    assert row[:5] == ["e" * 32, "churn", "customers", "1", "7"]


def test_an_experiment_is_shown_whole(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers(f"GET /api/experiments/{'e' * 32}", experiment())

    shown = seaway("experiments", "e" * 32).stdout

    for fact in ("customers version 1", "trees", "depth 4", "auc 0.91", "abc"):
        assert fact in shown


def test_an_experiment_is_created(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /api/experiments", experiment(), status=201)
    parts = ["--dataset", "customers", "--model", "churn", "--architecture", "trees", "--hyper-parameters", '{"d": 4}']

    done = seaway("experiments", "create", *parts)

    assert done.stdout == f"Experiment {'e' * 32}\n"
    assert server.asked[0].json == {
        "dataset": "customers", "dataset_version": None, "model": "churn", "architecture": "trees",
        "hyper_parameters": {"d": 4}, "validation_strategy": "", "code_commit": "",
    }  # fmt: skip


def test_an_experiment_without_its_parts_is_wrong_usage(server: ScriptedServer, seaway: Seaway) -> None:
    assert seaway("experiments", "create", "--dataset", "customers").exit_code == 2
    assert not server.asked
