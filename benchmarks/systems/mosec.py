"""mosec."""

from dataclasses import replace

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    options = ["--address", "127.0.0.1", "--port", str(launch.port), "--timeout", "60000", "--capacity", "2000"]
    return [python("mosec"), str(PEERS / "mosec_server.py"), *options, "--log-level", "warning"]


SYSTEM = System(name="mosec", title="mosec", venv="mosec", command=command, package="mosec")

BATCHING = replace(
    SYSTEM, name="mosec-batching", title="mosec, batches of 8", models=("minilm",), groups=("minilm",),
    environment=lambda launch: {"BENCHMARK_BATCH": "8"},
)  # fmt: skip
"""Its workers wait for company, a millisecond (the least) at most."""
