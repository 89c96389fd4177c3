"""Log lines: one event a line, whoever wrote it and whatever a caller put into it."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from seaway.telemetry import logs

TS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, before = logging.getLogger(), structlog.get_config()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    for handler in root.handlers:
        if isinstance(handler, logging.handlers.WatchedFileHandler):
            handler.close()
    logging.captureWarnings(capture=False)
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)


class Output:
    """What `configure` wrote, in JSON or text."""

    def __init__(self, **settings: Any) -> None:
        self._stream = io.StringIO()
        logs.configure("gateway", **{"level": "info", "format": "json", **settings}, stream=self._stream)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.split("\n")[:-1]]

    @property
    def line(self) -> dict[str, Any]:
        [line] = self.lines
        return line


def logger() -> Any:
    return structlog.get_logger()


# --------------------------------------------------------------------------- what a line says


def test_a_line_says_when_how_bad_what_and_who() -> None:
    output = Output()
    logger().info("worker.ready", model="iris", engines=2)

    line = output.line
    assert list(line)[:4] == ["ts", "level", "event", "role"]
    assert {name: line[name] for name in line if name != "ts"} == {
        "level": "info", "event": "worker.ready", "role": "gateway", "model": "iris", "engines": 2,
    }  # fmt: skip
    assert re.fullmatch(TS, line["ts"])


def test_bound_fields_and_fields_of_the_process_are_on_every_line() -> None:
    output = Output(about={"model": "iris", "worker": "w1"})
    structlog.contextvars.bind_contextvars(request_id="r-1")
    logger().bind(prediction_id="p-1").info("one")
    logging.getLogger("any").warning("two")

    one, two = output.lines
    assert (one["model"], one["worker"], one["request_id"], one["prediction_id"]) == ("iris", "w1", "r-1", "p-1")
    assert (two["model"], two["worker"], two["request_id"]) == ("iris", "w1", "r-1")


def test_a_field_cannot_pretend_to_be_the_time_or_the_role() -> None:
    output = Output()
    logger().info("one", ts="never", role="control", level="debug")
    assert (output.line["role"], output.line["level"]) == ("gateway", "info")
    assert output.line["ts"] != "never"


def test_lines_below_the_level_are_not_written() -> None:
    output = Output(level="warning")
    logger().info("one")
    logging.getLogger("any").info("two")
    logger().warning("three")
    assert output.line["event"] == "three"


def test_other_libraries_speak_the_same_way() -> None:
    output = Output()
    logging.getLogger("sqlalchemy.pool").warning("Connection %d was invalid", 7)
    logging.getLogger("alembic.runtime").warning("odd", extra={"revision": "abc"})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)

    first, odd, careful = output.lines
    assert (first["event"], first["logger"]) == ("Connection 7 was invalid", "sqlalchemy.pool")
    assert (odd["level"], odd["revision"]) == ("warning", "abc")
    assert (careful["level"], careful["logger"]) == ("warning", "py.warnings")


def test_access_lines_of_libraries_are_left_out() -> None:
    output = Output()
    for name in ("uvicorn.access", "httpx"):
        logging.getLogger(name).info("GET / 200")
    assert output.text == ""


def test_a_handler_that_a_library_brought_is_taken_away() -> None:
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(io.StringIO()))
    output = Output()
    logging.getLogger("uvicorn").info("once")
    assert len(output.lines) == 1
    assert logging.getLogger("uvicorn").handlers == []


def test_an_exception_is_one_field() -> None:
    output = Output()
    try:
        int("first\nsecond")
    except ValueError:
        logger().exception("worker.load_failed")

    assert output.line["level"] == "error"
    assert output.line["exception"].startswith("Traceback")
    assert "ValueError: invalid literal" in output.line["exception"]


def test_values_that_json_cannot_say_become_text() -> None:
    output = Output()
    logger().info("odd", nan=float("nan"), where=Path("x"), nested={1: [float("inf"), b"\xff"]}, none=None, yes=True)
    line = output.line
    assert (line["nan"], line["where"], line["none"], line["yes"]) == ("nan", "x", None, True)
    assert line["nested"] == {"1": ["inf", "b'\\xff'"]}


def test_a_value_without_end_is_cut() -> None:
    output = Output()
    logger().info("request.refused", path="x" * 1_000_000)
    assert len(output.text) < 10_000
    assert output.line["path"].endswith("…")


# --------------------------------------------------------------------------- what a caller can't do

HOSTILE = 'a\nb\r\x1b[31m\x00\x7f\x85\u2028\u202e"\\{event}%s' + chr(0xD800)


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_value_ends_its_line_or_moves_the_cursor(format: str) -> None:
    output = Output(format=format)
    logger().info(HOSTILE, **{"path": HOSTILE, HOSTILE: 1})
    logging.getLogger("any").info(HOSTILE, extra={"path": HOSTILE})

    assert output.text.count("\n") == len(output.text.splitlines()) == 2
    assert output.text.replace("\n", "").isprintable()


@given(value=st.text(), name=st.text(min_size=1))
def test_any_text_stays_one_readable_line(value: str, name: str) -> None:
    record = logging.LogRecord("any", logging.INFO, "", 0, "%s", (value,), None)
    record.path = value
    for as_text in (False, True):
        line = logs.formatter("gateway", as_text=as_text).format(record)
        assert line.isprintable()
    assert json.loads(logs.formatter("gateway").format(record))["path"] == value


def test_a_forged_field_in_text_stays_in_its_quotes() -> None:
    output = Output(format="text")
    logger().info("request.refused", path='x" level=critical user="root')
    assert output.text.endswith(' path="x\\" level=critical user=\\"root"\n')


def test_a_traceback_in_text_is_indented_so_that_none_of_its_lines_looks_like_an_event() -> None:
    output = Output(format="text")
    logger().error("bad", exc_info=ValueError("x\n2026-01-01T00:00:00.000Z info control forged\x1b[0m"))

    first, *others = output.text.splitlines()
    assert " error " in first
    assert others == ["    | ValueError: x", "    | 2026-01-01T00:00:00.000Z info control forged\\x1b[0m"]


# --------------------------------------------------------------------------- where lines go


def test_every_line_also_goes_to_the_shared_file_as_json(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "seaway.jsonl"
    output = Output(format="text", file=file)
    logger().info("worker.ready", model="iris")
    assert json.loads(file.read_text())["model"] == "iris"
    assert not output.text.startswith("{")


def test_a_file_over_its_limit_is_moved_aside_and_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "seaway.jsonl"
    Output(file=file)
    logger().info("old")
    logs.rotate(file, limit_bytes=10)
    logger().info("new")
    logs.rotate(file, limit_bytes=1_000_000)

    assert json.loads(file.read_text())["event"] == "new"
    assert json.loads((tmp_path / "seaway.1.jsonl").read_text())["event"] == "old"


def test_a_file_that_nobody_wrote_is_not_rotated(tmp_path: Path) -> None:
    logs.rotate(tmp_path / "none.jsonl")
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(Terminal(), False), (io.StringIO(), True)])
def test_auto_is_text_on_a_terminal_and_json_elsewhere(stream: io.StringIO, is_json: bool) -> None:
    logs.configure("gateway", "info", "auto", stream=stream)
    logger().info("one")
    assert stream.getvalue().startswith("{") == is_json


def run(code: str) -> list[dict[str, Any]]:
    begin = "import threading\nfrom seaway.telemetry import logs\nlogs.configure('control', 'info', 'json')\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_the_last_words_of_a_process_are_one_line() -> None:
    [line] = run("raise RuntimeError('gone')")
    assert (line["level"], line["event"], line["role"]) == ("critical", "process.crashed", "control")
    assert line["exception"].endswith("RuntimeError: gone")


def test_the_last_words_of_a_thread_are_one_line() -> None:
    [line] = run("def f(): raise RuntimeError('gone')\nt = threading.Thread(target=f, name='io'); t.start(); t.join()")
    assert (line["event"], line["thread"]) == ("thread.crashed", "io")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def passed(sparing: logs.Sparing, method: str, **event: Any) -> dict[str, Any] | None:
    try:
        return dict(sparing(None, method, event))
    except structlog.DropEvent:
        return None


def test_of_each_kind_of_warning_so_many_a_second_are_logged_and_the_others_counted() -> None:
    clock = Clock()
    sparing = logs.Sparing(3, clock)
    refused = {"event": "request.refused", "code": "Unavailable"}

    assert [passed(sparing, "warning", **refused) is not None for _ in range(10)] == [True] * 3 + [False] * 7
    assert passed(sparing, "warning", **refused | {"code": "DeadlineExceeded"}) is not None, "another kind"
    clock.now += 1
    assert passed(sparing, "warning", **refused) == refused | {"unlogged": 7}
    assert passed(sparing, "warning", **refused) == refused


def test_what_is_no_warning_is_logged_as_often_as_it_is_said() -> None:
    sparing = logs.Sparing(1, Clock())
    assert all(passed(sparing, method, event="request.finished") for method in ("debug", "info") for _ in range(50))


def test_a_flood_of_warnings_ends_in_few_lines() -> None:
    output = Output()
    log = structlog.get_logger()
    for number in range(5000):
        log.warning("request.refused", code="Unavailable", number=number)
    assert 20 <= len(output.lines) <= 20 * 30, "twenty a second, however slow this machine is"
