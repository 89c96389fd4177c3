"""MLServer. Its REST endpoint does not take binary tensors."""

import json

from benchmarks.paths import program
from benchmarks.systems.base import Launch, System, v2


def prepare(launch: Launch, environment: dict[str, str]) -> None:
    for name in launch.models:
        folder = launch.home / name
        folder.mkdir(parents=True, exist_ok=True)
        model = {"name": name, "implementation": "mlserver_runtime.OnnxModel"}
        (folder / "model-settings.json").write_text(json.dumps(model))


def command(launch: Launch) -> list[str]:
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": launch.port,
        "grpc_port": launch.port + 1,
        "metrics_port": launch.port + 2,
        "parallel_workers": launch.cores,
        "gzip_enabled": False,
    }
    (launch.home / "settings.json").write_text(json.dumps(settings))
    return [program("mlserver", "mlserver"), "start", str(launch.home)]


SYSTEM = System(
    name="mlserver",
    title="MLServer",
    venv="mlserver",
    command=command,
    path=v2,
    json_wire="oip",
    prepare=prepare,
    package="mlserver",
)
