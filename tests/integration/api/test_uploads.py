"""Uploads: streamed, bounded, whole or not at all."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from seaway.api import intake, uploads
from seaway.api.management import management_app
from seaway.config import Settings
from seaway.registry import Registry
from seaway.testing import FakeOperations

PATH = "/api/datasets/rows/versions"
LIMIT = 1 << 20
LeftBehind = Callable[[], list[Path]]


def part(content: bytes = b"x", *, filename: str | None = "rows.bin", name: str = "files", more: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


async def send(
    http: httpx.AsyncClient, body: bytes | AsyncIterator[bytes], content_type: str = "multipart/form-data; boundary=b"
) -> httpx.Response:
    return await http.post(PATH, content=body, headers={"Content-Type": content_type})


MALFORMED = [
    ("no content type", b"hello", "", 400, "multipart/form-data"),
    ("JSON", b"{}", "application/json", 400, "multipart/form-data"),
    ("no boundary", form(part()), "multipart/form-data", 400, "multipart/form-data"),
    ("an empty boundary", form(part()), "multipart/form-data; boundary=", 400, "multipart/form-data"),
    ("another boundary", form(part()), "multipart/form-data; boundary=c", 400, "no valid form"),
    ("a boundary of 300 characters", form(part()), "multipart/form-data; boundary=" + "b" * 300, 400, "no valid form"),
    ("nothing", b"", None, 400, "cut off"),
    ("no part", b"--b--\r\n", None, 400, "no"),
    ("no file", form(part(filename=None, name="description")), None, 400, "no file"),
    ("cut within a file", part(b"x" * 100)[:-20], None, 400, "cut off"),
    ("cut between parts", part() + part(filename="other"), None, 400, "cut off"),
    ("cut in the last boundary", form(part())[:-5], None, 400, "cut off"),
    ("an unknown field", form(part(), part(filename=None, name="owner")), None, 400, "'owner'"),
    ("a field without a name", form(part(), b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n"), None, 400, "''"),
    ("a field twice", form(*[part(filename=None, name="source")] * 2), None, 400, "twice"),
    ("a field of 64 kB and more", form(part(b"x" * 65_537, filename=None, name="description")), None, 413, "65536"),
    ("a field that is no UTF-8", form(part(b"\xff", filename=None, name="description")), None, 400, "UTF-8"),
    ("NUL in a field", form(part(b"\x00", filename=None, name="description")), None, 400, "NUL"),
    ("a source that is no JSON", form(part(), part(b"x", filename=None, name="source")), None, 400, "source"),
    ("a source that is a list", form(part(), part(b"[]", filename=None, name="source")), None, 400, "source"),
    ("NaN in a source", form(part(), part(b'{"a": NaN}', filename=None, name="source")), None, 400,
     '"source.a": expected a finite number'),
    ("half a pair", form(part(), part(b'{"a": "\\ud800"}', filename=None, name="source")), None, 400,
     '"source.a" holds a NUL or half of a surrogate pair'),
    ("a NUL in a source", form(part(), part(b'{"a": ["\\u0000"]}', filename=None, name="source")), None, 400,
     '"source.a.0" holds a NUL'),
    ("a deep source", form(part(), part(b'{"a":' * 33 + b"1" + b"}" * 33, filename=None, name="source")), None, 400,
     '"source" is nested too deeply: expected at most 32 levels'),
    ("no disposition", form(b"--b\r\nX: y\r\n\r\nx\r\n"), None, 400, "Content-Disposition"),
    ("another kind", form(b'--b\r\nContent-Disposition: file; filename="a"\r\n\r\nx\r\n'), None, 400, "form-data"),
    ("a header of 5 kB", form(part(more=f"X: {'y' * 5000}\r\n")), None, 400, "header"),
    ("a hundred headers", form(part(more="X: y\r\n" * 100)), None, 400, "header"),
    ("a file twice", form(part(), part()), None, 400, "twice"),
    ("a file and a folder", form(part(filename="a"), part(filename="a/b")), None, 400, "folder"),
    ("a folder and a file", form(part(filename="a/b"), part(filename="a")), None, 400, "a"),
    ("a preamble without end", b"\r\n" * (2 * LIMIT), None, 413, str(LIMIT)),
    ("an epilogue without end", form(part()) + b"x" * (4 * LIMIT), None, 413, str(LIMIT)),
    ("a file over the limit", form(part(b"x" * (LIMIT + 1))), None, 413, str(LIMIT)),
    ("files over it", form(*(part(b"x" * (LIMIT // 4), filename=str(i)) for i in range(5))), None, 413, str(LIMIT)),
    ("parts without number", form(*(part(filename=f"f{i}") for i in range(10_001))), None, 400, "10000 parts"),
]  # fmt: skip
FILENAMES = [
    "", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", "./a", "C:x", "C:/x", "a\\b", "..\\x",
    "\\\\host\\x", "C:\\x", "a\x01b", "a\x7f", "x" * 241, "%00\x00",
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "content_type", "status", "says"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
async def test_a_malformed_upload_is_refused_and_leaves_nothing(
    body: bytes, content_type: str | None, status: int, says: str,
    http: httpx.AsyncClient, registry: Registry, left_behind: LeftBehind,
) -> None:  # fmt: skip
    answer = await send(http, body, "multipart/form-data; boundary=b" if content_type is None else content_type)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert says in answer.json()["error"]
    assert registry.list_datasets().items == ()
    assert left_behind() == []


@pytest.mark.parametrize("filename", FILENAMES)
async def test_a_file_name_that_leads_elsewhere_is_refused(
    filename: str, http: httpx.AsyncClient, registry: Registry, left_behind: LeftBehind
) -> None:
    answer = await send(http, form(part(filename=filename)))
    assert (answer.status_code, list(answer.json())) == (400, ["error"]), answer.text
    assert registry.list_datasets().items == ()
    assert left_behind() == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
async def test_a_packed_upload_is_not_taken_for_its_content(encoding: str, http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": encoding}
    assert (await http.post(PATH, content=form(part()), headers=headers)).status_code == 415


async def test_a_length_that_says_too_much_is_refused_before_anything_is_read(
    http: httpx.AsyncClient, left_behind: LeftBehind
) -> None:
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        asked += 1
        yield b"x"

    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(1 << 40)}
    answer = await http.post(PATH, content=body(), headers=headers)
    assert (answer.status_code, asked) == (413, 0)
    assert left_behind() == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_an_upload_may_come_in_pieces_of_any_size(
    size: int, http: httpx.AsyncClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_BLOCK_BYTES", 1)
    content = b"\r\n--\r\n-b--\r\n--a\r\r\n-- almost a boundary" * 3
    body = form(part(content, filename="a/b.bin"), part(b"what it is", filename=None, name="description"))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    answer = await send(http, pieces())

    assert answer.status_code == 201, answer.text
    stored = registry.artifacts.path(answer.json()["digest"]) / "a" / "b.bin"
    assert stored.read_bytes() == content
    assert registry.list_datasets().items[0]["description"] == "what it is"


async def test_an_upload_is_never_whole_in_memory(
    registry: Registry, operations: FakeOperations, tmp_path: Path
) -> None:
    size, chunk = 64 << 20, b"x" * (1 << 16)

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="large"\r\n\r\n'
        for _ in range(size // len(chunk)):
            yield chunk
        yield b"\r\n--b--\r\n"

    app = management_app(registry, operations, Settings(home=tmp_path, max_upload_bytes=size))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as http:
        tracemalloc.start()
        try:
            answer = await send(http, body())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (answer.status_code, answer.json()["n_bytes"]) == (201, size)
    assert peak < 16 << 20


async def test_an_upload_that_stalls_is_given_up(
    registry: Registry, operations: FakeOperations, tmp_path: Path, left_behind: LeftBehind
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield part()[:-10]
        await asyncio.Event().wait()

    app = management_app(registry, operations, Settings(home=tmp_path, body_seconds=0.05))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as http:
        answer = await send(http, body())
    assert (answer.status_code, "0.05 s" in answer.json()["error"]) == (504, True)
    assert left_behind() == []


async def test_no_more_uploads_at_once_than_there_is_room_for(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, left_behind: LeftBehind
) -> None:
    monkeypatch.setattr(intake, "MAX_UPLOADS", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield form(part())

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(send(http, body()))
        await begun.wait()
        refused = await send(http, form(part()))
        go_on.set()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert first.result().status_code == 201
    assert (await send(http, form(part()))).status_code == 200


async def test_a_caller_that_leaves_leaves_nothing(http: httpx.AsyncClient, left_behind: LeftBehind) -> None:
    begun = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield part()[:-10]
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(send(http, body()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_behind() == []
