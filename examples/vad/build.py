"""Build `package/` of silero-vad, which hears whether somebody speaks, out of its PyPI package.

The result is in the repository, since it is small and its licence (MIT, beside it) allows that; this is how it was
made. `python examples/vad/build.py` needs `pip install --no-deps silero-vad` (it asks for torch, which nothing here
uses) and `pip install onnxruntime`.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from stream import CHUNK, RATE, STATE, chunks, read_wav

HERE = Path(__file__).parent
PACKAGE = HERE / "package"
MODEL = "silero_vad_16k_op15.onnx"
ANSWERED = (10, 25)
"""Chunks of voice.wav that become known answers: one of the rest, one of the first vowel."""

SEAWAY_YAML = """\
description: Does somebody speak? silero-vad on 32 ms of sound at 16 kHz; its state goes back and forth with the caller.
runtime: onnx
model: model.onnx
input:
  type: tensor
known_answers: known_answers.json
"""


def known_answers(model: Path) -> list[dict[str, Any]]:
    """Two pieces with the state before and after them; Seaway replays them before a version takes traffic."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    state = np.zeros(STATE, np.float32)
    answers = []
    for number, piece in enumerate(chunks(read_wav(HERE / "voice.wav"))):
        speech, after = session.run(["output", "stateN"], {"input": piece, "state": state, "sr": np.array(RATE)})
        if number in ANSWERED:
            inputs = {"input": piece.tolist(), "state": state.tolist(), "sr": RATE}
            outputs = {"output": speech.tolist(), "stateN": after.tolist()}
            answers.append({"inputs": inputs, "outputs": outputs, "tolerance": 1e-4})
        state = after
    return answers


def main() -> None:
    try:
        files = importlib.metadata.distribution("silero-vad")
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit("The model is missing; run `pip install --no-deps silero-vad`.") from error
    PACKAGE.mkdir(exist_ok=True)
    for file in files.files or ():
        if file.name == MODEL:
            shutil.copyfile(str(file.locate()), PACKAGE / "model.onnx")
        if file.name == "LICENSE":
            shutil.copyfile(str(file.locate()), PACKAGE / "LICENSE")
    (PACKAGE / "seaway.yaml").write_text(SEAWAY_YAML)
    answers = known_answers(PACKAGE / "model.onnx")
    (PACKAGE / "known_answers.json").write_text(json.dumps(answers) + "\n")
    for number, answer in zip(ANSWERED, answers, strict=True):
        print(f"piece {number}, {number * CHUNK / RATE:.2f} s: {answer['outputs']['output'][0][0]:.3f}")


if __name__ == "__main__":
    main()
