"""Versions in the gateway: what misbehaves is answered elsewhere, and then moved out."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seaway.errors import (
    Cancelled,
    InferenceFailed,
    InvalidRequest,
    NotSupported,
    PayloadTooLarge,
    UnsupportedEncoding,
)
from seaway.runtimes.base import RunHandle
from seaway.serving import inline
from seaway.serving.flight import InferCall, runs_inline
from seaway.serving.inline import InlineVersion, Watchdog
from seaway.serving.plane import DataPlane
from seaway.serving.predictor import Payload, Reply, TooLarge
from seaway.telemetry.page import MetricsPage, read_page
from seaway.types import InlineSpec, ServedVersion, Signature

PAYLOAD = Payload("predict", b'{"inputs": [1]}')
REPLY = Reply([b"{}"], 2, None, "application/json", "", 1)
SPEC = InlineSpec("", 16_384, 8, 200_000)
SERVED = ServedVersion("m", 1, 1, 0, 10_000, Signature((), ()), "onnx", (), 4, 30.0, inline=SPEC)


class ScriptedPredictor:
    """Answers by calling `script` with the run's handle."""

    def __init__(self, script: Callable[[RunHandle], None]) -> None:
        self.script = script

    def answer(
        self, payload: Payload, prediction_id: str, handle: RunHandle, max_rows: int, max_numbers: int | None
    ) -> tuple[Reply, int, int, int]:
        self.script(handle)
        return REPLY, 1, 2, 3


def version(script: Callable[[RunHandle], None], suspects: list[str]) -> InlineVersion:
    watchdog = Watchdog(lambda served, reason: suspects.append(reason))
    return InlineVersion(SERVED, SPEC, ScriptedPredictor(script), watchdog)  # type: ignore[arg-type]


def nothing(handle: RunHandle) -> None:
    pass


def busy(nanoseconds: int) -> Callable[[RunHandle], None]:
    def burn(handle: RunHandle) -> None:
        until = time.thread_time_ns() + nanoseconds
        while time.thread_time_ns() < until:
            pass

    return burn


def endless(handle: RunHandle) -> None:
    while not handle.terminated:
        pass
    raise Cancelled("The run was stopped.")


def new_memory(n_bytes: int) -> mmap.mmap:
    """Of this process alone, filled; never what was freed before."""
    mapped = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.write(b"x" * n_bytes)
    return mapped


def failing(error: Exception) -> Callable[[RunHandle], None]:
    def fail(handle: RunHandle) -> None:
        raise error

    return fail


def test_a_good_version_answers_and_is_never_suspected() -> None:
    suspects: list[str] = []
    one = version(nothing, suspects)
    for _ in range(1000):
        assert one.answer(PAYLOAD, "id") == (REPLY, 1, 2, 3)
    assert suspects == []
    assert one.cpu_ns > 0


def test_a_run_without_end_is_ended_left_to_the_worker_and_the_version_moved_out() -> None:
    suspects: list[str] = []
    one = version(endless, suspects)
    assert one.answer(PAYLOAD, "id") is None
    assert "was ended" in suspects[0]
    one._predictor.script = nothing  # type: ignore[attr-defined]
    assert one.answer(PAYLOAD, "id") == (REPLY, 1, 2, 3), "the next run isn't ended with the last"


def test_a_version_that_keeps_exceeding_its_budget_is_moved_out() -> None:
    suspects: list[str] = []
    one = version(busy(1_000_000), suspects)
    for _ in range(8 * 16):
        assert one.answer(PAYLOAD, "id") is not None
    assert "of CPU" in suspects[0]


def test_failures_are_the_worker_s_to_answer_and_after_some_in_a_row_the_version_is_moved_out() -> None:
    suspects: list[str] = []
    one = version(failing(InferenceFailed("no memory")), suspects)
    for _ in range(8):
        assert one.answer(PAYLOAD, "id") is None
    assert len(suspects) == 1
    assert "8 runs in a row failed" in suspects[0]


@pytest.mark.parametrize("fault", [InvalidRequest, PayloadTooLarge, UnsupportedEncoding, NotSupported])
def test_no_fault_of_a_caller_moves_a_version_out(fault: type[Exception]) -> None:
    suspects: list[str] = []
    one = version(failing(fault("no")), suspects)
    for _ in range(50):
        with pytest.raises(fault):
            one.answer(PAYLOAD, "id")
    assert suspects == []


def test_what_callers_do_wrong_is_told_them_and_counts_against_nobody() -> None:
    suspects: list[str] = []
    one = version(failing(InvalidRequest("inputs: expected 3 numbers")), suspects)
    for _ in range(50):
        with pytest.raises(InvalidRequest, match="expected 3 numbers"):
            one.answer(PAYLOAD, "id")
    assert version(failing(TooLarge(9)), suspects).answer(PAYLOAD, "id") is None
    assert suspects == []


def test_the_watchdog_sleeps_while_nothing_runs_and_wakes_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "_TICK_SECONDS", 0.001)
    suspects: list[str] = []
    one = version(nothing, suspects)
    one.answer(PAYLOAD, "id")
    deadline = time.monotonic() + 10
    while not one._watchdog._sleeps:
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)
    one._predictor.script = endless  # type: ignore[attr-defined]
    assert one.answer(PAYLOAD, "id") is None
    assert len(suspects) == 1


@pytest.fixture
def data_plane(tmp_path: Path) -> Iterator[DataPlane]:
    page = MetricsPage(tmp_path / "metrics-0.page")
    yield DataPlane(index=0, page=page, random=lambda: 0.5)
    page.close()


def test_a_version_whose_runs_make_the_gateway_grow_is_moved_out() -> None:
    kept: list[mmap.mmap] = []
    suspects: list[str] = []
    one = version(lambda handle: kept.append(new_memory(900_000)), suspects)
    for _ in range(200):
        one.answer(PAYLOAD, "id")
    assert not any("MiB with its runs" in reason for reason in suspects)
    for _ in range(120):
        one.answer(PAYLOAD, "id")
    assert any("MiB with its runs" in reason for reason in suspects)


def test_what_else_makes_the_gateway_grow_is_held_against_no_version() -> None:
    kept: list[mmap.mmap] = []
    suspects: list[str] = []
    one = version(nothing, suspects)
    for _ in range(300):
        kept.append(new_memory(1 << 20))
        one.answer(PAYLOAD, "id")
    assert suspects == []


def test_only_what_is_plain_business_runs_inline(data_plane: DataPlane) -> None:
    data_plane._inline["m"] = version(nothing, [])
    assert data_plane.find_inline("m", 16_384) is not None
    assert data_plane.find_inline("m", 16_385) is None
    assert data_plane.find_inline("other", 10) is None
    assert runs_inline(InferCall("m", None, "predict", b""))
    assert runs_inline(InferCall("m", None, "predict", b"", timeout_seconds=1.0))
    assert not runs_inline(InferCall("m", "1", "predict", b""))
    assert not runs_inline(InferCall("m", None, "predict", b"", content_encoding="gzip"))
    assert not runs_inline(InferCall("m", None, "predict", b"", timeout_seconds=1e-6))


def test_an_inline_answer_is_counted_like_any_other(data_plane: DataPlane, tmp_path: Path) -> None:
    call = InferCall("m", None, "predict", b"")
    found = data_plane.answer_inline(version(nothing, []), call, b"{}")
    assert isinstance(found, tuple)
    assert (found[0], found[2]) == (REPLY, 6)
    refused = data_plane.answer_inline(version(failing(InvalidRequest("no")), []), call, b"")
    assert isinstance(refused, InvalidRequest)
    (series,) = read_page(tmp_path / "metrics-0.page")
    assert (series.outcomes["ok"], series.outcomes["invalid"]) == (1, 1)
