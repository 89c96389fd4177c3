"""examples/vad: the package answers as recorded; the client cuts sound and carries the state as the model wants it."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from examples.vad import stream

PACKAGE = Path(stream.__file__).parent / "package"

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(PACKAGE / "model.onnx", providers=["CPUExecutionProvider"])


def test_plain_onnxruntime_gives_the_known_answers(session: onnxruntime.InferenceSession) -> None:
    for answer in json.loads((PACKAGE / "known_answers.json").read_text()):
        inputs = answer["inputs"]
        feeds = {name: np.array(inputs[name], np.float32) for name in ("input", "state")}
        outputs = session.run(["output", "stateN"], {**feeds, "sr": np.array(inputs["sr"])})
        for array, name in zip(outputs, ("output", "stateN"), strict=True):
            assert np.abs(array - np.array(answer["outputs"][name])).max() <= answer["tolerance"]


def test_the_made_voice_is_heard_and_the_rests_are_not(session: onnxruntime.InferenceSession) -> None:
    def step(_: httpx.Client, piece: Array, state: Array) -> tuple[float, Array]:
        speech, after = session.run(["output", "stateN"], {"input": piece, "state": state, "sr": np.array(stream.RATE)})
        return float(speech[0, 0]), after

    with httpx.Client() as unused:
        heard = stream.spoken(stream.listen(unused, stream.read_wav(stream.VOICE), step))
    [(start, end)] = heard
    assert start == pytest.approx(0.75, abs=0.1)
    assert end == pytest.approx(2.35, abs=0.15)


def test_each_piece_begins_with_the_end_of_the_one_before() -> None:
    sound = np.arange(1, 3 * stream.CHUNK + 100, dtype=np.float32)
    pieces = list(stream.chunks(sound))
    assert [piece.shape for piece in pieces] == [(1, stream.CONTEXT + stream.CHUNK)] * 3
    assert not pieces[0][0, : stream.CONTEXT].any()
    assert (pieces[1][0, : stream.CONTEXT] == pieces[0][0, -stream.CONTEXT :]).all()


def test_a_sound_at_48_khz_is_heard_as_at_16(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes((tone * 16_000).astype("<i2").tobytes())
    sound = stream.read_wav(tmp_path / "tone.wav")
    expected = tone[::3] * 16_000 / 32_768
    assert len(sound) == 16_000
    assert np.abs(sound[100:-100] - expected[100:-100]).max() < 0.005


def test_the_licence_is_beside_the_model() -> None:
    assert (PACKAGE / "LICENSE").read_text().startswith("MIT License")
