"""Triton's server, as the wheel of PyTriton brings it: the C++ core with its Python backend, which runs ONNX Runtime.

NVIDIA publishes Triton with its ONNX Runtime backend in containers only, so that one is not measured here.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.models import load
from benchmarks.paths import PEERS, VENVS
from benchmarks.systems.base import ALL_MODELS, Launch, System, v2

MAX_BATCH_ROWS = 8
DATATYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def _packages() -> Path:
    """The environment's site-packages; its Python's version is in the path."""
    (packages,) = (VENVS / "triton" / "lib").glob("python3.*/site-packages")
    return packages


def _server() -> Path:
    return _packages() / "pytriton" / "tritonserver"


def _tensor(name: str, kind: str, shape: tuple[int, ...]) -> str:
    dims = ", ".join(str(size) for size in shape)
    return f'{{name: "{name}" data_type: {kind} dims: [{dims}]}}'


def _configuration(name: str, instances: int, max_rows: int) -> str:
    model = load(name)
    batch = () if max_rows else (-1,)  # Triton adds the dimension that counts samples by itself where it batches
    inputs = ", ".join(
        _tensor(key, DATATYPES[str(values.dtype)], (*batch, *values.shape[1:])) for key, values in model.inputs.items()
    )
    output = _tensor("output", "TYPE_FP32", (*batch, *model.expected.shape[1:]))
    return (
        f'name: "{name}" backend: "python" max_batch_size: {max_rows}\ninput [{inputs}]\noutput [{output}]\n'
        f"instance_group [{{count: {instances} kind: KIND_CPU}}]\n{'dynamic_batching {}' if max_rows else ''}\n"
    )


def prepare(max_rows: int) -> Callable[[Launch, dict[str, str]], None]:
    """Models in batches of so many; 0: each request alone."""

    def prepared(launch: Launch, _environment: dict[str, str]) -> None:
        _prepare(launch, max_rows)

    return prepared


def _prepare(launch: Launch, max_rows: int) -> None:
    """Triton's folder of models, and its backend with the stub for this Python."""
    for name in launch.models:
        folder = launch.home / "models" / name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        # The backend finds modules beside the model only; it ignores PYTHONPATH.
        shutil.copyfile(PEERS / "triton_model.py", folder / "1" / "model.py")
        shutil.copyfile(PEERS / "common.py", folder / "1" / "common.py")
        (folder / "config.pbtxt").write_text(_configuration(name, launch.cores, max_rows))
    backend = launch.home / "backends" / "python"
    shutil.rmtree(backend, ignore_errors=True)
    shutil.copytree(_server() / "backends" / "python", backend)
    version = _packages().parent.name.removeprefix("python")
    stub = _server() / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, backend / "triton_python_backend_stub")


def command(launch: Launch) -> list[str]:
    folders = ["--model-repository", f"{launch.home}/models", "--backend-directory", f"{launch.home}/backends"]
    http = ["--http-address", "127.0.0.1", "--http-port", str(launch.port), "--http-thread-count", str(launch.cores)]
    return [str(_server() / "bin" / "tritonserver"), *folders, *http, "--allow-grpc", "false", "--log-info", "false",
            "--allow-metrics", "false"]  # fmt: skip


def environment(launch: Launch) -> dict[str, str]:
    return {
        "PATH": f"{VENVS}/triton/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(_packages()),
        "LD_LIBRARY_PATH": str(_packages() / "nvidia_pytriton.libs"),
    }


SYSTEM = System(
    name="triton",
    title="Triton (Python)",
    venv="triton",
    command=command,
    path=v2,
    json_wire="oip",
    models=ALL_MODELS,
    binary=("tabular", "vision", "identity"),
    prepare=prepare(0),
    environment=environment,
    package="nvidia-pytriton",
)

BATCHING = replace(
    SYSTEM, name="triton-batching", title="Triton, dynamic batching", models=("minilm",), binary=(),
    groups=("minilm",), prepare=prepare(MAX_BATCH_ROWS),
)  # fmt: skip
"""What waits runs together, and nothing waits for company, as Seaway's joint runs."""
