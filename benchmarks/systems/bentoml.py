"""BentoML."""

from benchmarks.paths import program
from benchmarks.systems.base import Launch, System


def command(launch: Launch) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(launch.port)]
    return [program("bentoml", "bentoml"), "serve", "bentoml_server:Models", *address]


SYSTEM = System(
    name="bentoml",
    title="BentoML",
    venv="bentoml",
    command=command,
    environment=lambda launch: {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(launch.home)},
    package="bentoml",
)
