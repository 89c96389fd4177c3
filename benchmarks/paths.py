"""Where the benchmark keeps what is not committed, and where it finds what is."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
VENVS = BENCHMARKS / ".venvs"
MODELS = BENCHMARKS / ".models"
LOGS = BENCHMARKS / ".logs"
PEERS = BENCHMARKS / "peers"
RESULTS = BENCHMARKS / "results"
UNFINISHED = BENCHMARKS / ".results"
"""Results of runs that measured less than they could; not committed."""


def python(venv: str) -> str:
    """The interpreter of one of the environments that scripts/setup_benchmarks makes."""
    return str(VENVS / venv / "bin" / "python")


def program(venv: str, name: str) -> str:
    """A command that a package put into an environment."""
    return str(VENVS / venv / "bin" / name)
