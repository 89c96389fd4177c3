"""What all servers here share: the same models, opened in the same way, under the same names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(os.environ["BENCHMARK_MODELS"])
NAMES = tuple(os.environ["BENCHMARK_SERVE"].split(","))
PORT = int(os.environ["BENCHMARK_PORT"])
CORES = len(os.sched_getaffinity(0))
_DESCRIBED = json.loads((FOLDER / "models.json").read_text())
INPUTS = {name: {key: np.dtype(kind) for key, kind in _DESCRIBED[name]["inputs"].items()} for name in NAMES}
OUTPUTS = {name: [_DESCRIBED[name]["output"]] for name in NAMES}


def session(name: str) -> onnxruntime.InferenceSession:
    """One thread and no spinning: as many requests at once as there are processes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(FOLDER / name / "model.onnx", options, providers=["CPUExecutionProvider"])


def feeds(name: str, values: dict) -> dict:
    """Arrays out of parsed JSON."""
    return {key: np.array(values[key], kind) for key, kind in INPUTS[name].items()}
