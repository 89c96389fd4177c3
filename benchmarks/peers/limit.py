"""ONNX Runtime alone, in one process: `limit.py SECONDS CORES`, with the input of the one model served.

A thread for each of the cores (0,1,...), all on one session, so that they share its weights. `line_p99` is the 99th
percentile of what a request would wait and run if IN_LINE of them were always shared out evenly among this machine's
cores, each core took its own in the order in which they came, and all else cost nothing: no server can have less.
"""

import json
import os
import sys
import threading
import time

import numpy as np
from common import FOLDER, NAMES, OUTPUTS, session

IN_LINE = 8
line = max(1, IN_LINE // len(os.sched_getaffinity(0)))
seconds, cores = float(sys.argv[1]), [int(core) for core in sys.argv[2].split(",")]
(name,) = NAMES
opened = session(name)
with np.load(FOLDER / name / "inputs.npz") as inputs:
    row = {key: np.ascontiguousarray(values[:1]) for key, values in inputs.items()}
found = []


def work(core: int, go: threading.Barrier) -> None:
    os.sched_setaffinity(0, {core})
    for _ in range(5):
        opened.run(OUTPUTS[name], row)
    go.wait()
    go.wait()
    times = []
    cpu, started = time.thread_time(), time.perf_counter()
    before = started
    while before - started < seconds:
        opened.run(OUTPUTS[name], row)
        after = time.perf_counter()
        times.append(after - before)
        before = after
    found.append((times, time.thread_time() - cpu, before - started))


go = threading.Barrier(len(cores) + 1)
threads = [threading.Thread(target=work, args=(core, go)) for core in cores]
for thread in threads:
    thread.start()
go.wait()
print("ready", flush=True)
sys.stdin.readline()
go.wait()
for thread in threads:
    thread.join()
times = [one for each, _, _ in found for one in each]
lines = [one for each, _, _ in found for one in np.convolve(each, np.ones(line), "valid")]
print(json.dumps({"requests": len(times), "cpu_seconds": sum(cpu for _, cpu, _ in found),
                  "elapsed": max(elapsed for _, _, elapsed in found),
                  "p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99)),
                  "p999": float(np.percentile(times, 99.9)), "line_p99": float(np.percentile(lines, 99))}))  # fmt: skip
