"""KServe's Python server."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import ALL_MODELS, Launch, System, v2


def command(launch: Launch) -> list[str]:
    return [python("kserve"), str(PEERS / "kserve_server.py")]


SYSTEM = System(
    name="kserve",
    title="KServe",
    venv="kserve",
    command=command,
    path=v2,
    json_wire="oip",
    models=ALL_MODELS,
    binary=("tabular", "vision", "identity"),
    package="kserve",
)
