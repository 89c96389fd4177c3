"""The floor of HTTP in Python: uvicorn with a constant answer."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(launch.port), "--workers", str(launch.cores)]
    quiet = ["--no-access-log", "--log-level", "warning", "--lifespan", "off", "--loop", "uvloop", "--http", "httptools"]
    return [python("fastapi"), "-m", "uvicorn", "constant:app", "--app-dir", str(PEERS), *options, *quiet]


SYSTEM = System(
    name="constant",
    title="constant answer (uvicorn)",
    venv="fastapi",
    command=command,
    json_wire="oip",
    models=("tabular",),
    groups=("tabular", "unseen", "open"),
    checked=False,
    package="uvicorn",
)
