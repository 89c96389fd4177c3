"""Artifacts and their rows: both or neither, whatever dies, fails or fills up on the way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seaway import faults
from seaway.errors import ArtifactCorrupt, InvalidPackage, NotFound, Unavailable
from seaway.packages.manifest import verify
from seaway.registry import ArtifactStore, Registry
from support.registering import add_dataset, add_model

pytestmark = pytest.mark.timeout(120)

POINTS = [point for point in faults.POINTS if point.startswith("register.")]


def kept(registry: Registry) -> set[str]:
    """The digests that have bytes on disk."""
    return {path.name for path in registry.artifacts.path("aa").parent.parent.glob("*/*")}


def staged(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "artifacts" / "staging").iterdir())


# --------------------------------------------------------------------------- death


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_while_registering_every_row_has_its_bytes_and_the_rest_is_collected(
    point: str, registry: Registry, open_registry: Callable[[], Registry], database_url: str, tmp_path: Path
) -> None:
    add_model(registry, b"older")
    bomb = tmp_path / "bomb"
    bomb.write_text(point)
    command = [sys.executable, "-m", "support.registering", database_url, str(tmp_path / "artifacts"), "weights"]
    ended = subprocess.run(
        [*command, str(bomb)], env=os.environ | {"PYTHONPATH": "tests"}, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr

    restarted = open_registry()
    restarted.migrate()
    restarted.artifacts.collect(restarted.referenced_artifacts())

    committed = point == "register.after-commit"
    assert kept(restarted) == restarted.referenced_artifacts()
    assert len(kept(restarted)) == (2 if committed else 1)
    assert staged(tmp_path) == []
    version, new = add_model(restarted, b"weights")
    assert (version.version, new) == (2, not committed)
    verify(restarted.artifacts.path(version.digest), version.manifest)
    restarted.verify_audit()


def test_collecting_leaves_what_some_version_has(registry: Registry, tmp_path: Path) -> None:
    version, _ = add_model(registry, b"weights")
    add_dataset(registry, b"rows")
    abandoned = tmp_path / "artifacts" / "staging" / "abandoned"
    abandoned.mkdir()
    (abandoned / "half").write_bytes(b"ha")
    (tmp_path / "artifacts" / "staging" / "a-file").write_bytes(b"")
    unnamed = registry.artifacts.path("ab" * 32)
    unnamed.mkdir(parents=True)

    assert registry.artifacts.collect(registry.referenced_artifacts()) == 3

    assert kept(registry) == registry.referenced_artifacts()
    assert len(kept(registry)) == 2
    verify(registry.artifacts.path(version.digest), version.manifest)


# --------------------------------------------------------------------------- changed bytes


def test_one_changed_byte_of_a_kept_artifact_is_noticed(registry: Registry) -> None:
    version, _ = add_model(registry, b"weights")
    stored = registry.artifacts.path(version.digest) / "model.onnx"
    verify(stored.parent, version.manifest)
    stored.write_bytes(b"weightz")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        verify(stored.parent, version.manifest)


def test_registering_the_right_bytes_again_mends_a_damaged_artifact(registry: Registry, tmp_path: Path) -> None:
    version, _ = add_model(registry, b"weights")
    stored = registry.artifacts.path(version.digest) / "model.onnx"
    stored.write_bytes(b"weightz")

    again, new = add_model(registry, b"weights")

    assert (again, new) == (version, False)
    verify(stored.parent, version.manifest)
    assert staged(tmp_path) == []


def test_registering_the_bytes_again_brings_back_an_artifact_that_is_gone(registry: Registry) -> None:
    version, _ = add_model(registry, b"weights")
    registry.artifacts.discard(version.digest)
    add_model(registry, b"weights")
    verify(registry.artifacts.path(version.digest), version.manifest)


# --------------------------------------------------------------------------- refusals and failures


def test_a_registration_that_the_database_refuses_leaves_no_file(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        add_model(registry, b"weights", experiment_id="0" * 32, metrics={})
    assert (kept(registry), staged(tmp_path)) == (set(), [])
    assert registry.list_models().items == ()


def test_a_refused_registration_does_not_take_the_bytes_of_another_version(registry: Registry) -> None:
    version, _ = add_model(registry, b"weights", model="other")
    with pytest.raises(NotFound):
        add_model(registry, b"weights", experiment_id="0" * 32, metrics={})
    verify(registry.artifacts.path(version.digest), version.manifest)


def test_refused_and_accepted_registrations_of_the_same_bytes_at_once_keep_the_bytes(
    registry: Registry, open_registry: Callable[[], Registry]
) -> None:
    clients = [registry, open_registry()]

    def attempt(number: int) -> None:
        refused = {"experiment_id": "0" * 32} if number % 2 else {}
        try:
            add_model(clients[number // 2 % 2], str(number // 4).encode(), **refused)
        except NotFound:
            assert refused

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(attempt, range(32)))
    assert kept(registry) == registry.referenced_artifacts()
    assert len(kept(registry)) == 8


def test_an_upload_given_up_halfway_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    with registry.artifacts.stage() as staging:
        with staging.open("model.onnx") as file:
            file.write(b"half")
        with pytest.raises(InvalidPackage, match="twice"):
            staging.open("model.onnx")
    assert (kept(registry), staged(tmp_path)) == (set(), [])


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.rename"])
def test_a_disk_that_is_full_while_registering_is_said_and_leaves_nothing(
    step: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(step, _full)
        with pytest.raises(Unavailable, match="disk is full"):
            add_model(registry, b"weights")
    assert (kept(registry), staged(tmp_path)) == (set(), [])
    assert registry.list_models().items == ()
    assert add_model(registry, b"weights")[0].version == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB. Only root may make one; the tests before this one say the same with a stand-in."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        mount = []
    yield place
    if mount:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_bytes_that_do_not_fit_on_the_disk_are_refused_and_room_is_as_before(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'seaway.db'}", ArtifactStore(tiny_disk))
    registry.migrate()
    with monkeypatch.context() as patched:
        if not tiny_disk.is_mount():
            patched.setattr(os, "fsync", _full)
        with pytest.raises(Unavailable, match="disk is full"):
            add_model(registry, os.urandom(1 << 20))
    assert [path for path in tiny_disk.rglob("*") if path.is_file()] == []
    assert registry.list_models().items == ()
    assert add_model(registry, b"small")[0].version == 1
    registry.close()


def test_readers_see_no_version_before_its_bytes(registry: Registry, open_registry: Callable[[], Registry]) -> None:
    reader = open_registry()
    done = threading.Event()
    missing: list[str] = []

    def look() -> None:
        while not done.is_set():
            missing.extend(
                digest for digest in reader.referenced_artifacts() if not reader.artifacts.path(digest).is_dir()
            )

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(20):
            add_model(registry, str(number).encode())
    finally:
        done.set()
        looking.join()
    assert missing == []
