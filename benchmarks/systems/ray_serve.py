"""Ray Serve, with its settings for throughput."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    return [python("ray"), str(PEERS / "ray_server.py")]


def environment(launch: Launch) -> dict[str, str]:
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    }


SYSTEM = System(name="ray", title="Ray Serve", venv="ray", command=command, environment=environment, package="ray")
