"""Seaway beside the reference, and what has to hold for any bytes that are sent to both.

`python -m support.torture` (from tests/) prints what the two answer to every case of the table.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from onnx import TensorProto, helper

from support import graphs
from support.hostile_http import ANY, BODY_LIMIT, INFER, PATHS, PREDICT, Case, Expected, table
from support.rawhttp import Answer, Barrier, Outcome, RawConnection, exchange
from support.reference_http import Message, Reading, ReferenceServer, read_stream
from support.server import SeawayServer, wait_until
from support.tiny import endless_model, scale_model, write_package

BODY_SECONDS = 1.5
WIDE = 300_000
"""Numbers in an answer of the model `wide`."""


def wide_model() -> bytes:
    """One number in, a great many out."""
    return graphs.model(
        [("Expand", ["x", "shape"], ["y"], {})],
        [("x", graphs.FLOAT, [1, 1])],
        [("y", graphs.FLOAT, [1, WIDE])],
        {"shape": np.array([1, WIDE])},
    )


def patient_model() -> bytes:
    """y = x after so many `turns` of doing nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["again"]), helper.make_node("Identity", ["carried"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1]),
        ],
    )
    return graphs.model(
        [("Squeeze", ["turns"], ["count"], {}), ("Loop", ["count", "true", "x"], ["y"], {"body": body})],
        [("turns", graphs.INT64, [1]), ("x", graphs.FLOAT, [1])],
        [("y", graphs.FLOAT, [1])],
        {"true": np.array(True)},
    )


_MODELS: dict[str, Callable[[], bytes]] = {
    "scale": lambda: scale_model(2.0),
    "wide": wide_model,
    "patient": patient_model,
    "endless": endless_model,
}


class TortureServer:
    """A real Seaway with one gateway and four models: scale (y = 2x), wide, patient and endless."""

    def __init__(self, directory: Path, placement: str = "worker") -> None:
        self.server = SeawayServer(
            home=directory / "home", gateways=1, engines=1, max_body_bytes=BODY_LIMIT, body_seconds=BODY_SECONDS
        )
        self._directory = directory
        self._placement = {} if placement == "worker" else {"placement": placement}
        self._barrier: Barrier | None = None
        self._pids: dict[str, list[int]] = {}

    def __enter__(self) -> Self:
        self.server.__enter__()
        try:
            for name, model in _MODELS.items():
                self.server.register(name, write_package(self._directory / name, model()))
                self.server.deploy(name, **(self._placement if name == "scale" else {}))
        except BaseException:
            self.server.__exit__(None, None, None)
            raise
        self._barrier = Barrier(self.address)
        self._pids = self._read_pids()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._barrier is not None:
            self._barrier.close()
        self.server.__exit__(kind, error, trace)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.server.url)
        return parts.hostname or "", parts.port or 0

    def connect(self, **options: Any) -> RawConnection:
        return RawConnection(self.address, **options)

    def pause(self) -> None:
        """Until the gateway has read everything that was sent so far."""
        assert self._barrier is not None
        self._barrier.pass_()

    def died(self) -> list[str]:
        """Whose processes (gateways, or a model's workers) have ended since this was asked last."""
        ended = [name for name, pids in self._pids.items() if not all(Path(f"/proc/{pid}").exists() for pid in pids)]
        if ended:
            wait_until(lambda: all(all(pids) for pids in self._read_pids().values()), 10)
            self._pids = self._read_pids()
        return ended

    def _read_pids(self) -> dict[str, list[int]]:
        live = self.server.http.get("/api/status").raise_for_status().json()
        workers = {model: [worker["pid"] for worker in state["workers"]] for model, state in live["models"].items()}
        return {"gateways": [gateway["pid"] for gateway in live["gateways"]], **workers}

    @contextlib.contextmanager
    def memory_growth(self) -> Iterator[Callable[[], int]]:
        """By how many bytes the gateway's memory at its highest exceeds what it has now (Linux)."""
        process = Path(f"/proc/{self._pids['gateways'][0]}")
        (process / "clear_refs").write_text("5")
        before = _peak_bytes(process)
        yield lambda: _peak_bytes(process) - before

    def serves(self) -> bool:
        """Whether a valid request is answered, and rightly."""
        with self.connect() as connection:
            connection.send(PREDICT.request(first=9))
            answer = connection.read()
        return answer is not None and answer.ok and answer.json["outputs"] == [18, 4, 6]


def _peak_bytes(process: Path) -> int:
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    return int(found) << 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """The same bytes at both servers."""

    reading: Reading
    seaway: Outcome
    reference: Outcome


class Bench:
    """Both servers, side by side."""

    def __init__(self, seaway: TortureServer, reference: ReferenceServer) -> None:
        self.seaway = seaway
        self.reference = reference
        self._reference_barrier = Barrier(reference.address)

    def close(self) -> None:
        self._reference_barrier.close()

    def try_(self, segments: Sequence[bytes]) -> Verdict:
        reading = read_stream(segments)
        return Verdict(reading, self.at_seaway(segments, reading), self.at_reference(segments, reading))

    def at_seaway(self, segments: Sequence[bytes], reading: Reading) -> Outcome:
        return exchange(
            self.seaway.address, segments, answers=len(reading.messages), then=reading.then, pause=self.seaway.pause
        )

    def at_reference(self, segments: Sequence[bytes], reading: Reading) -> Outcome:
        return exchange(
            self.reference.address, segments, answers=len(reading.messages), then=reading.then,
            pause=self._reference_barrier.pass_,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- rules


def check(verdict: Verdict) -> None:
    """Rules A to C of the fast lane: never more permissive than the reference, and errors of our shape."""
    never_more_permissive(verdict)
    same_framing(verdict)
    for answer in verdict.seaway.answers:
        well_formed(answer)
    for answer, message in zip(verdict.seaway.answers, verdict.reading.messages, strict=False):
        if answer.ok:
            same_interpretation(answer, message)


def never_more_permissive(verdict: Verdict) -> None:
    """Rule A. What the reference refuses, Seaway refuses."""
    seaway, reference, reading = verdict.seaway, verdict.reference, verdict.reading
    # The reference forgets the answers that it owes when something behind them is broken; its parser had taken those.
    answered = len([answer for answer in reference.answers if answer.ok])
    for limit, late in (
        (max(answered, reading.heads), seaway.answers),
        (max(answered, len(reading.messages)), [a if b"outputs" in a.body else None for a in seaway.answers]),
    ):
        more = [answer for answer in late[limit:] if answer and answer.ok]
        assert not more, f"Seaway answers more than the {limit} requests that there are: {more}"
    if reading.end == "error":
        assert reference.refused, f"reading and reference differ: {reading} {reference}"
        assert seaway.refused, f"the reference refuses with {reference.statuses}, Seaway answers {seaway}"
    if not reference.kept:
        assert not seaway.kept, f"the reference closes after {reference.statuses}, Seaway goes on: {seaway}"


def same_framing(verdict: Verdict) -> None:
    """Rule B. Where Seaway doesn't refuse and close, it sees the same requests and ends the same way."""
    seaway, reference = verdict.seaway, verdict.reference
    if seaway.kept or (seaway.answers and not seaway.refused):
        reading = verdict.reading
        assert len(reading.messages) <= len(seaway.answers) <= reading.heads, f"{seaway} {reading}"
    if seaway.answers and not seaway.refused:
        assert seaway.kept == reference.kept, f"the reference: {reference}, Seaway: {seaway}"


def well_formed(answer: Answer) -> None:
    """Rule C. An error is `{"error": "..."}`, the caller's, and says nothing of the server's inside."""
    if answer.ok:
        return
    assert answer.status < 500, answer
    assert answer.header("content-type") == "application/json", answer
    assert list(answer.json) == ["error"], answer
    message = answer.json["error"]
    assert isinstance(message, str), answer
    assert message, answer
    assert "Traceback" not in message, answer
    assert ".py" not in message, answer


def same_interpretation(answer: Answer, message: Message) -> None:
    """Rule B once more: the answer is the one to the body that the reference's parser found."""
    if message.path not in {PREDICT.path.decode(), INFER.path.decode()}:
        return
    asked = json.loads(message.body)
    if message.path == PREDICT.path.decode():
        given, outputs = asked["inputs"], answer.json["outputs"]
    else:
        given, outputs = asked["inputs"][0]["data"], answer.json["outputs"][0]["data"]
    expected = (2 * np.array(given, np.float64)).ravel()
    assert np.allclose(np.array(outputs, np.float64).ravel(), expected, rtol=1e-5), f"{answer} to {message}"


def as_expected(outcome: Outcome, expected: Expected) -> None:
    """What the table says about the last request."""
    if outcome.answers:
        assert outcome.answers[-1].status in expected.statuses, outcome
    else:
        assert expected == ANY, f"no answer: {outcome}"
        assert not outcome.kept, f"no answer, and it goes on: {outcome}"
    if expected.closes:
        assert not outcome.kept, outcome


# ---------------------------------------------------------------------------------------------------------- by hand


def main() -> None:
    """Print the table of what both servers answer, with the rules that fail."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        seaway = stack.enter_context(TortureServer(Path(directory)))
        bench = Bench(seaway, stack.enter_context(ReferenceServer()))
        for hot in PATHS:
            for case in table(hot):
                sys.stdout.write(f"| {hot.name} | {case.name} | {_row(bench, case)} |\n")
        bench.close()


def _row(bench: Bench, case: Case) -> str:
    try:
        verdict = bench.try_(case.segments)
        seen = f"{_told(verdict.reference)} | {_told(verdict.seaway)} | {verdict.reading.end}"
    except AssertionError as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    try:
        check(verdict)
        as_expected(verdict.seaway, case.expected)
    except Exception as error:  # noqa: BLE001 - printed
        return f"{seen} | {type(error).__name__}: {str(error)[:300]}"
    return seen


def _told(outcome: Outcome) -> str:
    return f"{' '.join(map(str, outcome.statuses))} {'kept' if outcome.kept else 'closed'}"


if __name__ == "__main__":
    main()
