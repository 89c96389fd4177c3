"""What is written stays as it was written, is found in the order it was written, and costs few queries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import Registry
from seaway.registry.identity import experiment_id, spec_digest
from seaway.registry.tables import IMMUTABLE
from support.registering import add_dataset, add_model, measure, ready

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def filled(registry: Registry) -> Registry:
    """A row in every table."""
    add_dataset(registry, b"rows")
    experiment, _ = registry.create_experiment("rows", 1, "scale", {"architecture": "trees"}, "ada")
    add_model(registry, b"weights", experiment_id=experiment.experiment_id, metrics={"auc": 0.9})
    registry.set_alias("scale", "champion", 1, actor="ada")
    ready(registry, 1)
    measure(registry)
    return registry


@pytest.mark.parametrize("table", IMMUTABLE)
def test_no_row_is_replaced_or_truncated_away_on_our_own_connections(filled: Registry, table: str) -> None:
    change = (
        f"insert or replace into {table} select * from {table}"
        if filled._database.sqlite
        else f"truncate {table} cascade"
    )
    with filled._database._writing(0, 1) as connection, pytest.raises(DBAPIError, match="never change"):
        connection.execute(text(change))


def test_a_clock_that_runs_backwards_changes_no_order(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = count()

    def earlier_each_time() -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) - timedelta(hours=next(hours))

    for room in ("aliases", "audit", "datasets", "deployments", "experiments", "models", "rows"):
        monkeypatch.setattr(f"seaway.registry.{room}.now", earlier_each_time)
    add_dataset(registry, b"rows")
    names = [
        registry.create_experiment("rows", 1, "scale", {"architecture": name}, "ada")[0].experiment_id for name in "abc"
    ]
    for content in (b"one", b"two", b"three"):
        version, _ = add_model(registry, content)
        ready(registry, version.version)
        registry.set_alias("scale", "champion", version.version, actor="ada")

    assert registry.get_model_version("scale").version == 3
    assert registry.resolve_alias("scale", "champion") == 3
    assert [revision.arms[0].version for revision in registry.desired()] == [3]
    assert [one.experiment_id for one in registry.list_experiments()] == names[::-1]
    assert registry.rollback("scale", actor="ada").arms[0].version == 2
    registry.verify_audit()


def test_times_are_read_as_utc(filled: Registry) -> None:
    times = [filled.get_model_version("scale").created_at, filled.audit().items[0].at]
    assert {time.utcoffset() for time in times} == {timedelta(0)}


def test_what_is_stored_of_an_experiment_gives_its_id_again(
    registry: Registry, open_registry: Callable[[], Registry]
) -> None:
    add_dataset(registry, b"rows")
    numbers = {"one": 1, "real": 1.0, "large": 1e20, "small": 1e-300, "minus": -0.0, "long": 10**30, "z": "ü", "a": []}
    spec = {"architecture": "trees", "hyper_parameters": numbers}
    made, _ = registry.create_experiment("rows", 1, "scale", spec, "ada")
    read = open_registry().get_experiment(made.experiment_id)
    assert spec_digest(read.spec) == made.spec_digest
    assert experiment_id(read.dataset_digest, read.spec_digest) == made.experiment_id
    assert list(read.spec["hyper_parameters"]) == list(numbers)


def test_the_columns_of_a_table_keep_their_order(registry: Registry) -> None:
    version, _ = add_dataset(registry, b"z,a,m\n1,2,3\n", path="rows.csv")
    assert list((version.schema or {}).keys()) == ["z", "a", "m"]


@pytest.mark.parametrize("cursor", ["x", "-1", "²", "9" * 30, "1 or 1=1"], ids=ascii)
def test_a_cursor_of_the_audit_log_that_is_none_is_refused(registry: Registry, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        registry.audit(10, cursor)


@pytest.mark.parametrize("revision", [0, -1, 99, 2**63, 10**30])
def test_a_revision_that_does_not_exist_is_not_found(filled: Registry, revision: int) -> None:
    with pytest.raises(NotFound):
        filled.get_revision(revision)


def test_a_state_that_no_deployment_has_is_refused(filled: Registry) -> None:
    with pytest.raises(InvalidRequest):
        filled.record_deployment_event(filled.get_deployment("scale").id, "perfect", "")


# --------------------------------------------------------------------------- queries


@pytest.fixture
def queries(registry: Registry) -> list[str]:
    """Every statement that `registry` sends."""
    sent: list[str] = []
    event.listen(registry._database.engine, "before_cursor_execute", lambda *call: sent.append(call[2]))
    return sent


def test_reading_many_takes_as_few_queries_as_reading_one(registry: Registry, queries: list[str]) -> None:
    add_dataset(registry, b"rows")
    for number in range(8):
        model = f"model-{number}"
        experiment, _ = registry.create_experiment("rows", 1, model, {"architecture": "trees"}, "ada")
        add_model(registry, b"weights", model=model, experiment_id=experiment.experiment_id)
        registry.set_alias(model, "champion", 1, actor="ada")
        ready(registry, 1, model=model)

    def sent_by(read: Callable[[], object]) -> int:
        queries.clear()
        read()
        return len([one for one in queries if one.lower().startswith("select")])

    assert sent_by(registry.desired) == 2
    assert sent_by(lambda: registry.get_deployment("model-1")) == 2
    assert sent_by(lambda: registry.last_ready("model-1")) == 2
    assert sent_by(lambda: registry.get_model_version("model-1", 1)) == 1
    assert sent_by(lambda: registry.get_model_version("model-1", "champion")) == 2
    assert sent_by(registry.list_models) == 2
    assert sent_by(registry.list_experiments) == 2
