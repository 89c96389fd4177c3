"""What no server can do much better than: sockets and ONNX Runtime in the same processes."""

from benchmarks.paths import PEERS, python
from benchmarks.systems.base import Launch, System, v2


def command(launch: Launch) -> list[str]:
    return [python("fastapi"), str(PEERS / "bare.py")]


SYSTEM = System(
    name="bare",
    title="bare sockets",
    venv="fastapi",
    command=command,
    path=v2,
    json_wire="oip",
    models=("minilm", "minilm_int8", "vision"),
    binary=("vision",),
    groups=("minilm", "int8", "vision"),
    package="onnxruntime",
)
