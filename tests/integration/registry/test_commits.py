"""The moment of the commit: it fails, there is no room for it, or another process is in the way."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from seaway.errors import Unavailable
from seaway.packages.manifest import verify
from seaway.registry import ArtifactStore, Registry, database
from support.registering import add_dataset, add_model

pytestmark = pytest.mark.timeout(120)


def left(registry: Registry) -> list[Path]:
    """Everything that stands in the store or is staged."""
    root = registry.artifacts.path("aa").parent.parent.parent
    return [*root.glob("sha256/*/*"), *root.glob("staging/*")]


class FailingCommit:
    """The next commit of a registry fails, as when the database dies at that moment."""

    def __init__(self, registry: Registry) -> None:
        self._armed = True
        event.listen(registry._database.engine, "commit", self)

    def __call__(self, _: object) -> None:
        if self._armed:
            self._armed = False
            raise OperationalError("commit", {}, Exception("gone"))


def test_a_commit_that_fails_takes_its_artifact_along(registry: Registry) -> None:
    FailingCommit(registry)
    with pytest.raises(Unavailable):
        add_model(registry, b"weights")
    assert (left(registry), registry.list_models().items) == ([], ())


def test_a_commit_that_fails_leaves_the_artifact_of_another_model(
    registry: Registry, open_registry: Callable[[], Registry]
) -> None:
    version, _ = add_model(open_registry(), b"weights", model="other")
    FailingCommit(registry)
    with pytest.raises(Unavailable):
        add_model(registry, b"weights")
    verify(registry.artifacts.path(version.digest), version.manifest)


def test_a_database_without_room_keeps_nothing_and_goes_on_once_there_is_some(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'seaway.db'}", ArtifactStore(tmp_path / "artifacts"))
    registry.migrate()
    with sqlite3.connect(tmp_path / "seaway.db") as plain:
        room = plain.execute("pragma page_count").fetchone()[0]
    plain.close()
    limit = [room]

    def limited(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"pragma max_page_count={limit[0]}")
        cursor.close()

    event.listen(registry._database.engine, "checkout", limited)
    with pytest.raises(Unavailable, match="disk is full"):
        add_dataset(registry, b"rows", source={"long": "x" * 100_000})
    assert (left(registry), registry.list_datasets().items) == ([], ())
    limit[0] = room * 100
    assert add_dataset(registry, b"rows", source={"long": "x" * 100_000})[1]
    registry.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO], ids=["read only", "broken"])
def test_a_disk_that_fails_is_unavailable_and_says_how(number: int, tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path)
    with pytest.raises(Unavailable, match=os.strerror(number)), artifacts.stage():
        raise OSError(number, os.strerror(number))
    assert list((tmp_path / "staging").iterdir()) == []


def test_writing_behind_another_process_that_holds_the_lock_ends_in_time_and_reading_goes_on(
    registry: Registry, open_registry: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(registry, b"weights")
    monkeypatch.setattr(database, "_WAIT_SECONDS", 1)
    impatient = open_registry()
    locked, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        locked.set()
        release.wait(30)

    holder = threading.Thread(target=registry._database.write, args=(hold,))
    holder.start()
    try:
        assert locked.wait(30)
        with pytest.raises(Unavailable):
            impatient.deploy("scale", 1, actor="ada")
        assert impatient.get_model_version("scale").version == 1
    finally:
        release.set()
        holder.join()
    assert impatient.deploy("scale", 1, actor="ada").number == 1
