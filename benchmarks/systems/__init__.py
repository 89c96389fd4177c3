"""The systems that can be measured. A new one is a file here, its server under peers/, its requirements, and a line."""

from __future__ import annotations

from benchmarks.systems import (
    bare,
    bentoml,
    constant,
    fastapi,
    kserve,
    litserve,
    mlserver,
    mosec,
    ray_serve,
    seaway,
    triton,
)
from benchmarks.systems.base import System

DEFAULT: tuple[System, ...] = (
    seaway.AUTO,
    seaway.WORKER,
    seaway.SILENT,
    seaway.DEBUG,
    constant.SYSTEM,
    fastapi.SYSTEM,
    triton.SYSTEM,
    mosec.SYSTEM,
)
"""What `make bench` measures, in this order in each round."""

MORE: tuple[System, ...] = (
    bare.SYSTEM,
    seaway.ALONE,
    triton.BATCHING,
    mosec.BATCHING,
    seaway.APART,
    litserve.SYSTEM,
    bentoml.SYSTEM,
    mlserver.SYSTEM,
    kserve.SYSTEM,
    ray_serve.SYSTEM,
)
"""What `make bench-all` adds."""

LIMIT = "onnxruntime"
"""Not a server: the model alone, in one process for each core (limit.py)."""

SYSTEMS: dict[str, System] = {system.name: system for system in (*DEFAULT, *MORE)}
