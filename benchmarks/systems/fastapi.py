"""FastAPI in one file."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(launch.port), "--workers", str(launch.cores)]
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [python("fastapi"), "-m", "uvicorn", "fastapi_server:app", "--app-dir", str(PEERS), *options, *quiet]


SYSTEM = System(name="fastapi", title="FastAPI, one file", venv="fastapi", command=command, package="fastapi")
