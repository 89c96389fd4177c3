"""Control's application in process: a real registry on SQLite, a fake of the running server behind it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from seaway.api.management import management_app
from seaway.config import Settings
from seaway.registry import ArtifactStore, Registry
from seaway.testing import FakeOperations
from support.registering import add_dataset, add_model

UPLOAD_LIMIT = 1 << 20


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated once: each test takes a copy."""
    directory = tmp_path_factory.mktemp("empty")
    registry = Registry(f"sqlite:///{directory / 'seaway.db'}", ArtifactStore(directory / "artifacts"))
    registry.migrate()
    registry.close()
    return directory / "seaway.db"


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Iterator[Registry]:
    shutil.copy(empty_database, tmp_path)
    registry = Registry(f"sqlite:///{tmp_path / 'seaway.db'}", ArtifactStore(tmp_path / "artifacts"))
    yield registry
    registry.close()


@pytest.fixture
def operations(registry: Registry) -> FakeOperations:
    return FakeOperations(registry)


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A test may change some: `parametrize("settings", [{...}], indirect=True)`."""
    changes = {"inspect_seconds": 30.0} | getattr(request, "param", {})
    return Settings(home=tmp_path, max_upload_bytes=UPLOAD_LIMIT, inspect_memory_bytes=2 << 30, **changes)


@pytest.fixture
async def http(registry: Registry, operations: FakeOperations, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = management_app(registry, operations, settings)
    # A crash becomes the answer that a caller would see.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        yield client


@pytest.fixture
def filled(registry: Registry) -> Registry:
    """One dataset version, two versions of the model scale."""
    add_dataset(registry, b"rows")
    for content in (b"one", b"two"):
        add_model(registry, content)
    return registry


@pytest.fixture
def left_behind(tmp_path: Path) -> Callable[[], list[Path]]:
    """Every file and directory that uploads have left in the artifact store."""

    def find() -> list[Path]:
        root = tmp_path / "artifacts"
        return [path for path in root.rglob("*") if path not in {root / "staging", root / "sha256"}]

    return find
