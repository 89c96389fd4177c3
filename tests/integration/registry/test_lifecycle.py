"""What the registry promises beyond versions, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from seaway.errors import Conflict, InvalidRequest, NotFound
from seaway.registry import Registry
from seaway.registry.database import Database
from seaway.registry.tables import IMMUTABLE, metadata
from seaway.serving.inspect import Inspection
from seaway.types import DeploymentRevision, ServingSettings, Signature, TensorSpec
from support.registering import measure

FOUND = Inspection("onnx", "onnxruntime_onnx", Signature((TensorSpec("x", "FP32", (-1, 3)),), ()), {"input": {}})


def add(registry: Registry, content: bytes, *, model: str = "m", **more: str) -> int:
    with registry.artifacts.stage() as staging:
        with staging.open("model.onnx") as file:
            file.write(content)
        version, _ = registry.add_model_version(model, staging, FOUND, actor="ana", **more)  # type: ignore[arg-type]
    return version.version


def add_data(registry: Registry, content: bytes = b"a,b\n1,2\n") -> int:
    with registry.artifacts.stage() as staging:
        with staging.open("data.csv") as file:
            file.write(content)
        version, _ = registry.add_dataset_version("d", staging, actor="ana")
    return version.version


def ready(registry: Registry, revision: DeploymentRevision) -> DeploymentRevision:
    registry.record_deployment_event(revision.id, "ready", "")
    return registry.get_revision(revision.id)


@pytest.fixture
def versions(registry: Registry) -> Registry:
    for content in (b"1", b"2", b"3"):
        add(registry, content)
    return registry


def served(registry: Registry) -> int | None:
    arms = registry.get_deployment("m").arms
    return arms[0].version if arms else None


def connect(database_url: str):  # type: ignore[no-untyped-def]
    url = make_url(database_url)
    return create_engine(url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url)


def test_rollback_returns_to_what_was_ready_before_and_again_to_what_was_before_that(versions: Registry) -> None:
    for number in (1, 2, 3):
        ready(versions, versions.deploy("m", number, actor="ana"))
    ready(versions, versions.rollback("m", actor="ana"))
    assert served(versions) == 2
    ready(versions, versions.rollback("m", actor="ana"))
    assert served(versions) == 1
    with pytest.raises(Conflict):
        versions.rollback("m", actor="ana")


def test_rollback_after_a_rollback_and_a_new_deploy_returns_to_what_served_in_between(versions: Registry) -> None:
    for number in (1, 2):
        ready(versions, versions.deploy("m", number, actor="ana"))
    ready(versions, versions.rollback("m", actor="ana"))
    ready(versions, versions.deploy("m", 3, actor="ana"))
    versions.rollback("m", actor="ana")
    assert served(versions) == 1


def test_rollback_leaves_a_failed_or_undeployed_revision_for_the_last_ready_one(versions: Registry) -> None:
    ready(versions, versions.deploy("m", 1, actor="ana"))
    failed = versions.deploy("m", 2, actor="ana")
    versions.record_deployment_event(failed.id, "failed", "no")
    ready(versions, versions.rollback("m", actor="ana"))
    assert served(versions) == 1
    versions.undeploy("m", actor="ana")
    assert versions.last_ready("m") is None
    versions.rollback("m", actor="ana")
    assert served(versions) == 1


def test_asking_for_what_is_asked_for_already_changes_nothing(versions: Registry) -> None:
    first = versions.deploy("m", 1, actor="ana")
    assert versions.deploy("m", 1, actor="ben") == first
    other = versions.deploy("m", 1, settings=ServingSettings(engines=1), actor="ana")
    assert (other.number, len(versions.deployment_history("m"))) == (2, 2)


def test_a_failed_deployment_may_be_asked_for_again(versions: Registry) -> None:
    failed = versions.deploy("m", 1, actor="ana")
    versions.record_deployment_event(failed.id, "failed", "no memory")
    assert versions.get_deployment("m").state_reason == "no memory"
    assert versions.deploy("m", 1, actor="ana").id != failed.id


def test_while_a_newer_revision_is_not_ready_the_last_ready_one_is_known(versions: Registry) -> None:
    first = ready(versions, versions.deploy("m", 1, actor="ana"))
    versions.deploy("m", 2, actor="ana")
    found = versions.last_ready("m")
    assert found is not None
    assert found.id == first.id
    assert [revision.arms[0].version for revision in versions.desired()] == [2]


def test_what_is_not_registered_cannot_be_deployed(versions: Registry) -> None:
    with pytest.raises(NotFound):
        versions.deploy("m", 9, actor="ana")
    with pytest.raises(NotFound):
        versions.undeploy("m", actor="ana")


def test_an_alias_remembers_what_it_meant_at_any_time(versions: Registry) -> None:
    versions.set_alias("m", "champion", 1, actor="ana", reason="first")
    versions.set_alias("m", "champion", 3, actor="ben", reason="better")
    first, second = versions.alias_history("m", "champion")
    assert versions.resolve_alias("m", "champion", second.at - timedelta(microseconds=1)) == 1
    assert versions.get_model_version("m", "champion").version == 3
    assert (first.to_version, second.from_version, second.by, second.reason) == (1, 1, "ben", "better")
    with pytest.raises(NotFound):
        versions.resolve_alias("m", "champion", first.at - timedelta(seconds=1))
    versions.delete_alias("m", "champion", actor="ana")
    assert versions.list_aliases("m") == ()
    assert len(versions.alias_history("m", "champion")) == 3


def test_an_alias_of_digits_is_refused(versions: Registry) -> None:
    with pytest.raises(InvalidRequest):
        versions.set_alias("m", "12", 1, actor="ana")


def test_an_experiment_s_id_follows_from_its_parts_alone(registry: Registry) -> None:
    add_data(registry)
    spec = {"architecture": "trees", "hyper_parameters": {"depth": 3, "rate": 0.1}}
    first, new = registry.create_experiment("d", None, "m", spec, "ana")
    again, known = registry.create_experiment("d", 1, "m", dict(reversed(spec.items())), "ben")
    assert (new, known, first.experiment_id) == (True, False, again.experiment_id)
    other, _ = registry.create_experiment("d", 1, "m", {**spec, "hyper_parameters": {"depth": 4, "rate": 0.1}}, "ana")
    assert other.experiment_id != first.experiment_id
    digests = f"exp1:{first.dataset_digest}:{first.spec_digest}"
    assert first.experiment_id == hashlib.sha256(digests.encode()).hexdigest()[:32]


def test_trained_versions_and_their_performance_hang_off_the_experiment(registry: Registry) -> None:
    add_data(registry)
    experiment, _ = registry.create_experiment("d", None, "m", {"architecture": "trees"}, "ana")
    with registry.artifacts.stage() as staging:
        with staging.open("model.onnx") as file:
            file.write(b"trained")
        version, _ = registry.add_model_version(
            "m", staging, FOUND, experiment_id=experiment.experiment_id, metrics={"auc": 0.9}, actor="ana"
        )
    (trained,) = registry.get_experiment(experiment.experiment_id).trained
    assert (trained.version, trained.metrics) == (version.version, {"auc": 0.9})
    revision = registry.deploy("m", version.version, actor="ana")
    lineage = registry.lineage(revision.id, 0)
    assert lineage["artifact_digest"] == version.digest
    assert lineage["dataset"]["digest"] == registry.get_dataset_version("d").digest


def test_no_committed_row_changes_by_sql(versions: Registry, database_url: str) -> None:
    add_data(versions)
    experiment, _ = versions.create_experiment("d", None, "m", {"architecture": "trees"}, "ana")
    versions.link_training(
        "m", versions.get_model_version("m", 1), experiment_id=experiment.experiment_id, metrics={}, actor="ana"
    )
    versions.set_alias("m", "champion", 1, actor="ana")
    ready(versions, versions.deploy("m", 1, actor="ana"))
    measure(versions)
    engine = connect(database_url)
    for table in IMMUTABLE:
        column = metadata.tables[table].columns.keys()[-1]
        for change in (f"delete from {table}", f'update {table} set "{column}" = "{column}"'):
            with engine.connect() as connection, pytest.raises(DBAPIError, match="never change"):
                connection.execute(text(change))
    engine.dispose()


def test_the_migrations_give_the_tables_that_the_code_uses(registry: Registry, database_url: str) -> None:
    engine = connect(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_of_two_migrations_at_once_one_waits_for_the_other(open_registry: Callable[[], Registry]) -> None:
    registries = [open_registry() for _ in range(3)]
    failures: list[BaseException] = []

    def migrate(registry: Registry) -> None:
        try:
            registry.migrate()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=migrate, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert add(registries[0], b"x") == 1


def test_many_processes_may_open_a_new_database_file_at_once(tmp_path: Path) -> None:
    def opened(path: Path, start: threading.Barrier) -> str:
        start.wait()
        database = Database(f"sqlite:///{path}")
        with database.reading() as connection:
            mode = str(connection.execute(text("pragma journal_mode")).scalar_one())
        database.close()
        return mode

    # SQLite refused one in ten at once when several switched a new file to WAL; thirty files catch that.
    with ThreadPoolExecutor(4) as pool:
        for number in range(30):
            start = threading.Barrier(4)
            modes = list(pool.map(opened, [tmp_path / f"{number}.db"] * 4, [start] * 4))
            assert modes == ["wal"] * 4
