"""LitServe."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    return [python("litserve"), str(PEERS / "litserve_server.py")]


SYSTEM = System(name="litserve", title="LitServe", venv="litserve", command=command, package="litserve")
