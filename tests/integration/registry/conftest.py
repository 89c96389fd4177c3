"""The same registry twice: every test that takes `registry` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seaway.registry import ArtifactStore, Registry
from support.postgres import new_database, shared_server_url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with shared_server_url() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'seaway.db'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


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
    registry = open_registry()
    registry.migrate()
    return registry
