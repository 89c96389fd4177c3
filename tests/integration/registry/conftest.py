"""The same registry twice: every test that takes `registry` runs on SQLite and on PostgreSQL.

Tables are made once and copied for each test; a test that takes only `open_registry` begins with an empty database.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from seaway.registry import ArtifactStore, Registry
from support.postgres import new_database, shared_server_url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with shared_server_url() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """An empty database."""
    with new_database(postgres_url) as url:
        yield url


def migrated(url: str, place: Path) -> str:
    registry = Registry(url, ArtifactStore(place / "artifacts"))
    registry.migrate()
    registry.close()
    return url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield migrated(url, tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("template")
    return migrated(f"sqlite:///{place / 'seaway.db'}", place)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the tables for a test that takes `registry`, an empty one for the others."""
    template = request.getfixturevalue(f"{_name(request)}_template") if "registry" in request.fixturenames else None
    if _name(request) == "sqlite":
        file = tmp_path / "seaway.db"
        if template is not None:
            shutil.copy(str(make_url(template).database), file)
        yield f"sqlite:///{file}"
        return
    server: str = request.getfixturevalue("postgres_url")
    with new_database(server, *([str(make_url(template).database)] if template else [])) as url:
        yield url


def _name(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else "postgres"


@pytest.fixture
def open_registry(database_url: str, tmp_path: Path) -> Iterator[Callable[[], Registry]]:
    """Opens the same registry as another process would: connections and locks of its own."""
    with contextlib.ExitStack() as opened:

        def open_() -> Registry:
            registry = Registry(database_url, ArtifactStore(tmp_path / "artifacts"))
            opened.callback(registry.close)
            return registry

        yield open_


@pytest.fixture
def registry(open_registry: Callable[[], Registry]) -> Registry:
    return open_registry()
