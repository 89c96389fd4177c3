"""A database that goes away is Unavailable in a sentence, and what comes after works again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from seaway.errors import ConfigurationError, Unavailable
from seaway.registry import ArtifactStore, Registry
from support.postgres import PostgresServer, connection_string, postgres_server
from support.registering import add_model

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def end_connections(url: str) -> None:
    others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        connection.execute(others + " and pid <> pg_backend_pid()")


@pytest.mark.postgres
def test_connections_that_the_database_ended_are_replaced_for_reading_and_writing(
    postgres_database: str, tmp_path: Path
) -> None:
    registry = Registry(postgres_database, ArtifactStore(tmp_path / "artifacts"))
    registry.migrate()
    end_connections(postgres_database)
    assert add_model(registry, b"weights")[0].version == 1
    end_connections(postgres_database)
    assert registry.get_model_version("scale").version == 1
    registry.close()


@pytest.mark.postgres
def test_a_connection_lost_within_a_transaction_is_unavailable_and_leaves_nothing(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(postgres_database, ArtifactStore(tmp_path / "artifacts"))
    registry.migrate()
    with monkeypatch.context() as patched:
        patched.setattr(
            "seaway.faults.point", lambda name: end_connections(postgres_database) if "before-commit" in name else None
        )
        with pytest.raises(Unavailable):
            add_model(registry, b"weights")
    assert registry.list_models().items == ()
    assert list((tmp_path / "artifacts").glob("*/*/*")) == []
    assert add_model(registry, b"weights")[0].version == 1
    registry.close()


@pytest.mark.postgres
def test_a_database_that_stopped_is_unavailable_until_it_is_back(own_server: PostgresServer, tmp_path: Path) -> None:
    registry = Registry(own_server.url(), ArtifactStore(tmp_path / "artifacts"))
    registry.migrate()
    add_model(registry, b"one")
    attempts: list[Callable[[], object]] = [
        lambda: registry.get_model_version("scale"),
        lambda: registry.deploy("scale", 1, actor="ada"),
        lambda: add_model(registry, b"two"),
        registry.referenced_artifacts,
        registry.migrate,
    ]
    own_server.stop()
    for attempt in attempts:
        with pytest.raises(Unavailable, match="can't be reached"):
            attempt()
    assert len(list((tmp_path / "artifacts").glob("sha256/*/*"))) == 1

    own_server.start()

    assert registry.get_model_version("scale").version == 1
    assert add_model(registry, b"two")[0].version == 2
    registry.close()


@pytest.mark.postgres
def test_a_database_that_only_reads_is_unavailable_for_writing(postgres_database: str, tmp_path: Path) -> None:
    registry = Registry(postgres_database, ArtifactStore(tmp_path / "artifacts"))
    registry.migrate()
    add_model(registry, b"weights")
    with psycopg.connect(connection_string(postgres_database), autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"alter database {name} set default_transaction_read_only = on")
    end_connections(postgres_database)
    with pytest.raises(Unavailable):
        registry.deploy("scale", 1, actor="ada")
    assert registry.get_model_version("scale").version == 1
    registry.close()


def test_a_sqlite_file_that_another_program_holds_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.registry.database._WAIT_SECONDS", 0.1)
    registry, other = (Registry(f"sqlite:///{tmp_path / 'seaway.db'}", ArtifactStore(tmp_path / "a")) for _ in "ab")
    registry.migrate()
    add_model(registry, b"weights")
    with other._database._writing(0, 1):
        with pytest.raises(Unavailable):
            registry.deploy("scale", 1, actor="ada")
        assert registry.get_model_version("scale").version == 1
    assert registry.deploy("scale", 1, actor="ada").number == 1
    registry.close()
    other.close()


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:", "postgresql://host:port/name"]
)
def test_a_database_url_that_is_none_is_said_in_a_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="database_url"):
        Registry(url, ArtifactStore(tmp_path))


def test_a_schema_of_a_newer_seaway_is_refused(registry: Registry, open_registry: Callable[[], Registry]) -> None:
    from sqlalchemy import text

    with registry._database._writing(0, 1) as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer"):
        open_registry().migrate()
