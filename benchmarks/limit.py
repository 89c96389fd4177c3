"""The model alone: ONNX Runtime in one process for each core, or in one with a thread for each; no server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch

MODELS = ("tabular", "minilm", "minilm_int8", "slow", "vision", "identity")


SHARED = ("minilm", "minilm_int8")
"""Those also measured with all cores on the same weights, which is less for the caches to hold."""


def measure_limit(model: str, seconds: float, *, shared: bool = False) -> dict[str, Any]:
    """Calls a second on all cores together, with processor time and durations of a call.

    `shared`: in one process whose threads share the weights.
    """
    each = [str(core) for core in sorted(os.sched_getaffinity(0))]
    cores = [",".join(each)] if shared else each
    launch = Launch(0, Path(), (model,), len(each))
    processes = [
        subprocess.Popen(
            [python("bench"), str(PEERS / "limit.py"), str(seconds), core],
            env={**os.environ, **launch.environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for core in cores
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    requests = sum(output["requests"] for output in outputs)
    elapsed = max(output["elapsed"] for output in outputs)
    cpu = sum(output["cpu_seconds"] for output in outputs)
    return {
        "requests": requests,
        "errors": 0,
        "seconds": elapsed,
        "requests_per_second": requests / elapsed,
        "cpu_seconds": cpu,
        "cpu_seconds_per_1000": cpu * 1000 / requests,
        "p50_ms": max(output["p50"] for output in outputs) * 1e3,
        "p99_ms": max(output["p99"] for output in outputs) * 1e3,
        "p999_ms": max(output["p999"] for output in outputs) * 1e3,
        "line_p99_ms": max(output["line_p99"] for output in outputs) * 1e3,
    }
