"""The floor of HTTP in Python: uvicorn with a constant answer."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(launch.port), "--workers", str(launch.cores)]
    fastest = ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--no-access-log"]
    app = ["constant:app", "--app-dir", str(PEERS), "--log-level", "warning"]
    return [python("fastapi"), "-m", "uvicorn", *app, *options, *fastest]


SYSTEM = System(
    name="constant",
    title="constant answer",
    venv="fastapi",
    command=command,
    json_wire="oip",
    models=("tabular",),
    groups=("tabular", "unseen", "open"),
    checked=False,
    package="uvicorn",
)
