"""The offline limit of the batching benchmark: the model alone, fed with the largest batch again and again, no server.

Prints JSON: samples a second, and the seconds of one full batch.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from embedder import DEVICE, MAX_ROWS, MAX_TOKENS, PACKAGE

from seaway.serving import process
from seaway.serving.predictor import Predictor

seconds = float(sys.argv[1])
predictor = Predictor.open(
    Path(PACKAGE), model="limit", version=1, max_body_bytes=1 << 26,
    threads=len(process.available_cpus()), device=DEVICE,
)  # fmt: skip
session = predictor.session
shape = (MAX_ROWS, MAX_TOKENS)
feeds = {spec.name: np.ones(shape, np.int64) for spec in session.signature.inputs}
feeds["input_ids"] = np.random.default_rng(0).integers(1000, 20000, shape)
names = [session.signature.outputs[0].name]


def once():
    began = time.perf_counter()
    session.collect(session.launch(session.stage(feeds), names))
    return time.perf_counter() - began


for _ in range(2):
    once()
times, until = [], time.perf_counter() + seconds
while time.perf_counter() < until:
    times.append(once())
batch = sorted(times)[len(times) // 2]
found = {"batch_seconds": batch, "rows_per_second": MAX_ROWS / batch, "device": session.device, "dtype": session.dtype}
print(json.dumps(found))
