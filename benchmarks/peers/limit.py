"""ONNX Runtime alone, in one process on one core: `limit.py SECONDS CORE`, with the input of the one model served."""

import json
import os
import sys
import time

import numpy as np
from common import FOLDER, NAMES, OUTPUTS, session

seconds, core = float(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, {core})
(name,) = NAMES
opened = session(name)
with np.load(FOLDER / name / "inputs.npz") as inputs:
    row = {key: np.ascontiguousarray(values[:1]) for key, values in inputs.items()}
for _ in range(5):
    opened.run(OUTPUTS[name], row)
print("ready", flush=True)
sys.stdin.readline()
times = []
cpu, started = time.process_time(), time.perf_counter()
before = started
while before - started < seconds:
    opened.run(OUTPUTS[name], row)
    after = time.perf_counter()
    times.append(after - before)
    before = after
cpu = time.process_time() - cpu
print(json.dumps({"requests": len(times), "cpu_seconds": cpu, "elapsed": before - started,
                  "p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99)),
                  "p999": float(np.percentile(times, 99.9))}))  # fmt: skip
