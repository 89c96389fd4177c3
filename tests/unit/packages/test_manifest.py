"""Files of a package by content, and names that can't leave it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import ArtifactCorrupt, InvalidPackage
from seaway.packages import safe_path, scan, verify


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "weights").mkdir(parents=True)
    (root / "model.onnx").write_bytes(b"graph")
    (root / "weights" / "part-0.bin").write_bytes(b"numbers")
    return root


def test_the_digest_is_what_sha256sum_of_the_sorted_files_hashes_to(package: Path) -> None:
    lines = subprocess.run(
        "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum",
        shell=True, cwd=package, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert scan(package).digest == lines.split()[0]


def test_every_byte_of_every_file_changes_the_digest(package: Path) -> None:
    before = scan(package).digest
    (package / "weights" / "part-0.bin").write_bytes(b"Numbers")

    assert scan(package).digest != before


def test_a_package_that_was_not_touched_verifies(package: Path) -> None:
    verify(package, scan(package))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: (root / "model.onnx").write_bytes(b"hparg"), "model.onnx"),
        (lambda root: (root / "model.onnx").write_bytes(b"longer than it was"), "model.onnx"),
        (lambda root: (root / "weights" / "part-0.bin").unlink(), "weights/part-0.bin"),
        (lambda root: (root / "extra.txt").write_bytes(b""), "extra.txt"),
        (
            lambda root: ((root / "model.onnx").unlink(), (root / "model.onnx").symlink_to("weights/part-0.bin")),
            "model.onnx",
        ),
    ],
    ids=["changed", "longer", "gone", "added", "link"],
)
def test_a_changed_package_is_corrupt_and_the_file_is_named(package: Path, change: object, named: str) -> None:
    manifest = scan(package)
    change(package)  # type: ignore[operator]

    with pytest.raises(ArtifactCorrupt, match=named) as caught:
        verify(package, manifest)
    assert str(package) not in str(caught.value)


def test_a_package_that_is_gone_is_corrupt(package: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="gone"):
        verify(package / "nowhere", scan(package))


def test_links_are_refused(package: Path) -> None:
    (package / "labels.txt").symlink_to("/etc/passwd")

    with pytest.raises(InvalidPackage, match=r"labels\.txt"):
        scan(package)


def test_pipes_are_refused(package: Path) -> None:
    os.mkfifo(package / "pipe")

    with pytest.raises(InvalidPackage, match="pipe"):
        scan(package)


def test_names_that_are_not_text_are_refused(package: Path) -> None:
    (Path(os.fsdecode(os.fsencode(package) + b"/\xff.bin"))).write_bytes(b"")

    with pytest.raises(InvalidPackage, match="file name"):
        scan(package)


def test_an_empty_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="no files"):
        scan(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/",
        "C:/x",
        "c:x",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 241,
        "\udcff",
    ],
)
def test_paths_that_could_leave_the_package_are_refused(path: str) -> None:
    with pytest.raises(InvalidPackage):
        safe_path(path)


@given(st.text(max_size=60))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        accepted = safe_path(path)
    except InvalidPackage:
        return
    assert Path("/package", accepted).resolve().is_relative_to("/package")
    assert str(accepted) == path
