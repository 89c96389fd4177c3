"""What a system is to the harness: how it is started, and which requests it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.paths import MODELS, PEERS, VENVS

JSON_MODELS = ("tabular", "minilm", "minilm_int8", "slow", "vision")
ALL_MODELS = (*JSON_MODELS, "identity")


@dataclass(frozen=True)
class Launch:
    """One start of a system."""

    port: int
    home: Path
    """A folder of the system's own; it stays between the rounds of a run."""
    models: tuple[str, ...]
    cores: int

    @property
    def environment(self) -> dict[str, str]:
        """What the files under peers/ read."""
        return {
            "BENCHMARK_MODELS": str(MODELS),
            "BENCHMARK_SERVE": ",".join(self.models),
            "BENCHMARK_PORT": str(self.port),
            "PYTHONPATH": str(PEERS),
            "OMP_NUM_THREADS": "1",
        }


@dataclass(frozen=True)
class System:
    """A server under test. A reply of each kind is compared with ONNX Runtime's before anything is timed."""

    name: str
    title: str
    venv: str
    command: Callable[[Launch], list[str]]
    path: Callable[[str], str] = "/{}".format
    json_wire: Literal["plain", "oip"] = "plain"
    models: tuple[str, ...] = JSON_MODELS
    binary: tuple[str, ...] = ()
    """The models that it is also asked about with binary tensors."""
    text: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    """The groups of cells to measure; None for all that its models allow."""
    environment: Callable[[Launch], dict[str, str]] = field(default=lambda launch: {})
    prepare: Callable[[Launch, dict[str, str]], None] | None = None
    """Called once in a run, before the first start, with the environment the server will have."""
    checked: bool = True
    package: str | None = None
    """The distribution whose version is reported."""

    @property
    def missing(self) -> str:
        """Why it can't be measured here; nothing when it can."""
        if (VENVS / self.venv / ".made").exists():
            return ""
        log = VENVS / f"{self.venv}.log"
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")] if log.exists() else []
        if errors:
            return f"did not install: {errors[0].removeprefix('ERROR: ')[:200]}"
        return f"not installed; run scripts/setup_benchmarks {self.venv}"


def v2(model: str) -> str:
    return f"/v2/models/{model}/infer"
