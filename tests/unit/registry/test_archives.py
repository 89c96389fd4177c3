"""Archives from strangers: unpacked within their directory and their limits, or refused in a sentence."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.registry.archives import is_archive, unpack

LIMIT, FILES = 1 << 20, 100


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(*entries: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for named, content in entries:
            info = named if isinstance(named, tarfile.TarInfo) else tarfile.TarInfo(named)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def plain_tar(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    return tarred(*entries, mode="w")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def unpacked(directory: Path, content: bytes, *, limit: int = LIMIT, files: int = FILES) -> dict[str, bytes]:
    """What lies in the target afterwards; fails when anything lies outside."""
    archive, target = directory / "archive", directory / "inside" / "target"
    target.mkdir(parents=True)
    archive.write_bytes(content)
    try:
        unpack(archive, target, limit_bytes=limit, max_files=files)
    finally:
        written = {path for path in directory.rglob("*") if not path.is_dir()} - {archive}
        assert all(path.is_relative_to(target) for path in written)
        assert not any(path.is_symlink() for path in directory.rglob("*"))
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in sorted(written)}


PACKERS = pytest.mark.parametrize("pack", [zipped, tarred, plain_tar])
Packer = Callable[..., bytes]


@PACKERS
def test_files_and_folders_come_out_as_they_went_in(pack: Packer, tmp_path: Path) -> None:
    content = pack(("model.onnx", b"graph"), ("weights/a.bin", b"a" * 3000), ("empty", b""))
    assert unpacked(tmp_path, content) == {"model.onnx": b"graph", "weights/a.bin": b"a" * 3000, "empty": b""}


@PACKERS
def test_an_archive_of_one_folder_is_that_folder_s_content(pack: Packer, tmp_path: Path) -> None:
    assert unpacked(tmp_path, pack(("m/model.onnx", b"graph"), ("m/w/a", b"a"))) == {
        "model.onnx": b"graph",
        "w/a": b"a",
    }


def test_the_dot_that_tar_writes_before_names_is_no_folder(tmp_path: Path) -> None:
    content = tarred((special("./", tarfile.DIRTYPE), b""), ("./model.onnx", b"graph"))
    assert unpacked(tmp_path, content) == {"model.onnx": b"graph"}


@PACKERS
@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "a/../../out",
        "/tmp/out",
        "//out",
        "a\\b",
        "..\\out",
        "C:/out",
        "C:out",
        "a//b",
        "./a/./b",
        "a\nb",
        "a\x07",
    ],
    ids=ascii,
)
def test_a_name_that_leads_anywhere_else_is_refused(pack: Packer, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage):
        unpacked(tmp_path, pack(("model.onnx", b"graph"), (name, b"x")))


@PACKERS
def test_a_name_of_300_characters_is_refused(pack: Packer, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="300 characters"):
        unpacked(tmp_path, pack(("x" * 300, b"")))


@PACKERS
def test_a_folder_with_an_unsafe_name_is_refused(pack: Packer, tmp_path: Path) -> None:
    entry = "../out/" if pack is zipped else special("../out", tarfile.DIRTYPE)
    with pytest.raises(InvalidPackage):
        unpacked(tmp_path, pack((entry, b"")))


@pytest.mark.parametrize(
    "info",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"), special("link", tarfile.SYMTYPE, "model.onnx"),
        special("link", tarfile.LNKTYPE, "model.onnx"), special("link", tarfile.LNKTYPE, "/etc/passwd"),
        special("pipe", tarfile.FIFOTYPE), special("disk", tarfile.BLKTYPE), special("tty", tarfile.CHRTYPE),
    ],
    ids=["symlink out", "symlink", "hardlink", "hardlink out", "pipe", "block device", "character device"],
)  # fmt: skip
def test_a_tar_with_anything_but_files_is_refused(info: tarfile.TarInfo, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="link or a device"):
        unpacked(tmp_path, tarred(("model.onnx", b"graph"), (info, b"")))


def test_writing_through_a_link_of_the_same_archive_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(InvalidPackage):
        unpacked(tmp_path, tarred((special("w", tarfile.SYMTYPE, str(outside)), b""), ("w/a", b"a")))
    assert list(outside.iterdir()) == []


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="link or a device"):
        unpacked(tmp_path, zipped((zip_link("link"), b"/etc/passwd")))


@PACKERS
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(pack: Packer, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="twice"):
        unpacked(tmp_path, pack(("model.onnx", b"one"), ("model.onnx", b"two")))


@PACKERS
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")], ids=["file first", "folder first"])
def test_a_name_that_is_file_and_folder_is_refused(pack: Packer, names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage):
        unpacked(tmp_path, pack(*((name, b"x") for name in names)))


@PACKERS
def test_more_entries_than_allowed_are_refused(pack: Packer, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="100 entries"):
        unpacked(tmp_path, pack(*((str(number), b"") for number in range(FILES + 1))))


def test_a_zip_whose_directory_alone_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="too many entries"):
        unpacked(tmp_path, zipped(*((f"{number:0>200}", b"") for number in range(12_000))))


@PACKERS
def test_what_unpacks_to_more_than_the_limit_is_too_large(pack: Packer, tmp_path: Path) -> None:
    bomb = pack(("zeros", bytes(64 * LIMIT)))
    with pytest.raises(PayloadTooLarge, match=str(LIMIT)):
        unpacked(tmp_path, bomb)
    assert sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*") if path.is_file()) <= LIMIT


@PACKERS
def test_files_that_are_too_large_together_are_too_large(pack: Packer, tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge):
        unpacked(tmp_path, pack(*((str(number), bytes(LIMIT // 2)) for number in range(3))))


def test_a_zip_that_lies_about_its_sizes_writes_no_more_than_the_limit(tmp_path: Path) -> None:
    honest = zipped(("zeros", bytes(64 * LIMIT)))
    size = (64 * LIMIT).to_bytes(4, "little")
    assert honest.count(size) == 2
    with pytest.raises(InvalidRequest):
        unpacked(tmp_path, honest.replace(size, (10).to_bytes(4, "little")))
    assert sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*") if path.is_file()) <= LIMIT


def test_a_tar_header_that_claims_a_name_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    header = special("name", tarfile.GNUTYPE_LONGNAME)
    header.size = 8 << 30
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 22)
    with pytest.raises(InvalidPackage):
        unpacked(tmp_path, gzip.compress(content))


@PACKERS
def test_an_archive_that_is_cut_off_is_refused(pack: Packer, tmp_path: Path) -> None:
    whole = pack(("model.onnx", random.Random(1).randbytes(50_000)))
    for number, length in enumerate([3, 100, 600, len(whole) // 2, 49_000]):
        with pytest.raises(InvalidPackage):
            unpacked(tmp_path / str(number), whole[:length])


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped(("model.onnx", b"graph")))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    with pytest.raises(InvalidPackage, match="encrypted"):
        unpacked(tmp_path, bytes(content))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x1f\x8b", b"hello", bytes(512), b"\x80\x04K\x01."], ids=ascii)
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    try:
        found = unpacked(tmp_path, content)
    except InvalidPackage:
        return
    assert found == {}


_WHOLE = [zipped(("a/model.onnx", b"graph" * 50), ("b", b"x")), plain_tar(("a/model.onnx", b"graph" * 50), ("b", b"x"))]


@given(st.sampled_from(_WHOLE), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_is_damaged_the_answer_is_a_refusal_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[place % len(content)] = value
    with contextlib.suppress(InvalidRequest):
        unpacked(tmp_path_factory.mktemp("damaged"), bytes(content))


def test_archives_are_known_by_their_names() -> None:
    assert all(map(is_archive, ["m.zip", "m.tar", "m.tar.gz", "m.tgz", "M.ZIP"]))
    assert not any(map(is_archive, ["model.onnx", "zip", "m.gz", "m.tar.xz"]))
