"""What answers questions later: aliases at a time, experiments with their metrics, the audit chain, lineage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import text

from seaway.errors import ArtifactCorrupt, InvalidRequest, NotFound
from seaway.registry import ArtifactStore, Registry
from support.registering import add_dataset, add_model, ready

pytestmark = pytest.mark.timeout(120)

FIRST, LAST = (
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=11))),
)
SPEC = {"architecture": "trees", "hyper_parameters": {"depth": 3, "rate": 0.1, "big": 1e20, "text": "ä\u2028"}}


@pytest.fixture
def scale(registry: Registry) -> Registry:
    """Two versions of `scale`."""
    add_model(registry, b"one")
    add_model(registry, b"two")
    return registry


# --------------------------------------------------------------------------- aliases


@pytest.mark.parametrize("hours", [-11, 0, 5, 14])
def test_the_past_of_an_alias_is_the_same_in_every_time_zone(scale: Registry, hours: int) -> None:
    scale.set_alias("scale", "champion", 1, actor="ada")
    scale.set_alias("scale", "champion", 2, actor="ada")
    before, after = (
        event.at.astimezone(timezone(timedelta(hours=hours))) for event in scale.alias_history("scale", "champion")
    )
    assert scale.resolve_alias("scale", "champion", before) == 1
    assert scale.resolve_alias("scale", "champion", after) == 2
    with pytest.raises(NotFound):
        scale.resolve_alias("scale", "champion", before - timedelta(microseconds=1))


@pytest.mark.parametrize("at", [FIRST, LAST], ids=["first", "last"])
def test_the_ends_of_time_are_answered_without_a_crash(scale: Registry, at: datetime) -> None:
    scale.set_alias("scale", "champion", 1, actor="ada")
    with pytest.raises((NotFound, InvalidRequest)):
        scale.resolve_alias("scale", "champion", at)


def test_setting_an_alias_to_what_it_means_is_no_event(scale: Registry) -> None:
    for _ in range(2):
        scale.set_alias("scale", "champion", 1, actor="ada")
    assert len(scale.alias_history("scale", "champion")) == 1


def test_an_alias_taken_away_means_nothing_now_and_may_come_back(scale: Registry) -> None:
    scale.set_alias("scale", "champion", 1, actor="ada")
    scale.delete_alias("scale", "champion", actor="ada", reason="retired")
    with pytest.raises(NotFound):
        scale.get_model_version("scale", "champion")
    with pytest.raises(NotFound):
        scale.delete_alias("scale", "champion", actor="ada")
    scale.set_alias("scale", "champion", 2, actor="ada")
    assert [event.to_version for event in scale.alias_history("scale", "champion")] == [1, None, 2]


def test_an_alias_of_a_version_or_model_that_does_not_exist_is_refused(scale: Registry) -> None:
    for model, version in (("scale", 3), ("scale", 2**40), ("nobody", 1)):
        with pytest.raises(NotFound):
            scale.set_alias(model, "champion", version, actor="ada")
    with pytest.raises(InvalidRequest):
        scale.set_alias("scale", "a/b", 1, actor="ada")


# --------------------------------------------------------------------------- experiments


def test_an_experiment_has_the_same_id_in_another_registry(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("elsewhere")
    elsewhere = Registry(f"sqlite:///{place / 'seaway.db'}", ArtifactStore(place / "artifacts"))
    elsewhere.migrate()
    add_dataset(elsewhere, b"something else first", path="data")
    for one in (registry, elsewhere):
        add_dataset(one, b"rows")
    here, there = (one.create_experiment("rows", None, "scale", SPEC, "ada")[0] for one in (registry, elsewhere))
    elsewhere.close()
    assert here.experiment_id == there.experiment_id
    assert (here.dataset_version, there.dataset_version) == (1, 2)
    assert here.spec == there.spec


def test_every_part_of_an_experiment_is_in_its_id(registry: Registry) -> None:
    add_dataset(registry, b"rows")
    add_dataset(registry, b"more rows")
    made = [
        registry.create_experiment("rows", version, model, spec, "ada")[0].experiment_id
        for version, model, spec in (
            (1, "scale", SPEC), (2, "scale", SPEC), (1, "other", SPEC),
            (1, "scale", SPEC | {"architecture": "linear"}), (1, "scale", SPEC | {"hyper_parameters": {"depth": 4}}),
            (1, "scale", SPEC | {"validation_strategy": "5 folds"}), (1, "scale", SPEC | {"code_commit": "abc"}),
        )
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    assert {one.experiment_id for one in registry.list_experiments()} == set(made)
    assert [one.model for one in registry.list_experiments("other")] == ["other"]


def test_an_experiment_reads_back_as_it_was_made(registry: Registry, open_registry: Callable[[], Registry]) -> None:
    add_dataset(registry, b"rows")
    made, _ = registry.create_experiment("rows", None, "scale", SPEC, "ada")
    assert open_registry().get_experiment(made.experiment_id) == made
    assert made.spec["hyper_parameters"] == SPEC["hyper_parameters"]


def test_several_versions_with_their_metrics_come_of_one_experiment(registry: Registry) -> None:
    add_dataset(registry, b"rows")
    experiment, _ = registry.create_experiment("rows", None, "scale", SPEC, "ada")
    link = {"experiment_id": experiment.experiment_id}
    add_model(registry, b"one", metrics={"loss": 0.5}, **link)
    two, _ = add_model(registry, b"two", metrics={"loss": 0.25}, **link)
    registry.link_training("scale", two, metrics={"loss": 0.25}, actor="ada", **link)
    registry.link_training("scale", two, metrics={"loss": 0.2}, actor="ada", **link)
    found = registry.get_experiment(experiment.experiment_id).trained
    assert [(one.version, one.metrics["loss"]) for one in found] == [(1, 0.5), (2, 0.25), (2, 0.2)]
    assert registry.get_model_version("scale", 2).experiment_id == experiment.experiment_id


@pytest.mark.parametrize("metrics", [{"loss": float("nan")}, {"loss": [float("inf")]}, {"note": "a\x00b"}], ids=ascii)
def test_metrics_that_cannot_be_answered_as_json_are_refused(registry: Registry, metrics: dict[str, object]) -> None:
    add_dataset(registry, b"rows")
    experiment, _ = registry.create_experiment("rows", None, "scale", SPEC, "ada")
    with pytest.raises(InvalidRequest):
        add_model(registry, b"one", experiment_id=experiment.experiment_id, metrics=metrics)
    assert registry.list_model_versions("scale") == ()


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"architecture": ""},
        {"architecture": "a", "colour": "red"},
        {"architecture": "a", "hyper_parameters": {"rate": float("nan")}},
    ],
    ids=["empty", "no architecture", "unknown key", "NaN"],
)
def test_an_experiment_of_a_wrong_specification_is_refused(registry: Registry, spec: dict[str, object]) -> None:
    add_dataset(registry, b"rows")
    with pytest.raises(InvalidRequest):
        registry.create_experiment("rows", None, "scale", spec, "ada")
    assert registry.list_models().items == ()


def test_an_experiment_needs_its_dataset_version(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.create_experiment("rows", None, "scale", SPEC, "ada")
    add_dataset(registry, b"rows")
    with pytest.raises(NotFound):
        registry.create_experiment("rows", 2, "scale", SPEC, "ada")


def test_an_experiment_of_another_model_cannot_have_trained_this_version(scale: Registry) -> None:
    add_dataset(scale, b"rows")
    other, _ = scale.create_experiment("rows", None, "other", SPEC, "ada")
    with pytest.raises(InvalidRequest, match="other"):
        add_model(scale, b"three", experiment_id=other.experiment_id)
    with pytest.raises(InvalidRequest, match="experiment"):
        add_model(scale, b"three", metrics={"loss": 1})


# --------------------------------------------------------------------------- lineage


def test_lineage_without_an_experiment_ends_at_the_artifact(scale: Registry) -> None:
    found = scale.lineage(ready(scale, 2), 0)
    assert (found["model"], found["version"], found["experiment"], found["dataset"]) == ("scale", 2, None, None)


@pytest.mark.parametrize(("revision", "arm"), [(1, 1), (1, -1), (2, 0), (0, 0), (2**63, 0), (2**32 - 1, 255)])
def test_lineage_of_what_never_served_is_not_found(scale: Registry, revision: int, arm: int) -> None:
    ready(scale, 1)
    with pytest.raises(NotFound):
        scale.lineage(revision, arm)


# --------------------------------------------------------------------------- audit


def change_behind_our_back(registry: Registry, table: str, *statements: str) -> None:
    """As somebody with the database's password could: triggers off first."""
    with registry._database._writing(0, 1) as connection:
        on = f" on {table}" if connection.dialect.name == "postgresql" else ""
        for change in ("update", "delete"):
            connection.execute(text(f"drop trigger {table}_no_{change}{on}"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("update audit_log set actor = 'eve' where seq = 2", 2),
        ("update audit_log set entity = 'scale/9' where seq = 1", 1),
        ("update audit_log set at = '2001-01-01 00:00:00+00' where seq = 3", 3),
        ("update audit_log set detail = '{}' where seq = 3", 3),
        ("delete from audit_log where seq = 1", 1),
        ("delete from audit_log where seq = 2", 2),
        ("update audit_log set seq = seq + 10 where seq = 3", 3),
    ],
    ids=["actor", "entity", "time", "detail", "first gone", "one gone", "renumbered"],
)
def test_a_changed_audit_log_is_noticed_at_the_first_wrong_entry(scale: Registry, statement: str, entry: int) -> None:
    ready(scale, 1)
    scale.verify_audit()
    change_behind_our_back(scale, "audit_log", statement)
    with pytest.raises(ArtifactCorrupt, match=f"entry {entry}"):
        scale.verify_audit()


def test_an_audit_log_of_odd_text_verifies_on_both_databases(scale: Registry) -> None:
    scale.set_alias("scale", "champion", 1, actor="ädä", reason='\u2028 \U0001f600 \\u0000 " \\ \x7f')
    scale.verify_audit()
    newest = scale.audit(limit=1).items[0]
    assert newest.detail["reason"] == '\u2028 \U0001f600 \\u0000 " \\ \x7f'


def test_every_change_is_in_the_audit_log_once_and_pages_hold_it_newest_first(scale: Registry) -> None:
    scale.set_alias("scale", "champion", 1, actor="ben")
    ready(scale, 1)
    scale.undeploy("scale", actor="eve")
    seen: list[tuple[str, str, str]] = []
    cursor: str | None = None
    while True:
        page = scale.audit(2, cursor)
        seen += [(entry.actor, entry.action, entry.entity) for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [
        ("eve", "deployment.undeploy", "scale/2"), ("ada", "deployment.deploy", "scale/1"),
        ("ben", "alias.set", "scale/champion"),
        ("ada", "model.version", "scale/2"), ("ada", "model.version", "scale/1"),
    ]  # fmt: skip
