"""Every kind of bad input that a server must answer with a clear 4xx, as one table.

`python -m support.bad_input` (from tests/) prints what a real server answers to each.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support.server import SeawayServer, wait_until
from support.tiny import endless_model, external_data_model, scale_model, unknown_operator_model, write_package

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
BODY_LIMIT = 200_000


@dataclass(frozen=True)
class BadInput:
    """One request, the status it must get, and a word that its message must hold."""

    name: str
    path: str
    status: int
    says: str
    body: Any = b""
    """bytes as they are, anything else as JSON, an iterator in chunks."""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, bytes], ...] = ()

    def send(self, http: httpx.Client) -> httpx.Response:
        if self.files:
            parts = [("files", (name, content)) for name, content in self.files]
            return http.request(self.method, self.path, files=parts, headers=self.headers)
        body = self.body
        if isinstance(body, tuple):
            body = iter(body)
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return http.request(self.method, self.path, content=body, headers=self.headers)


def flight(**changes: Any) -> dict[str, Any]:
    sample = json.loads((FLIGHTS / "one_flight.json").read_text())["inputs"] | changes
    return {"inputs": {name: value for name, value in sample.items() if value is not ...}}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | changes]}


def binary(size: int, data: bytes) -> tuple[bytes, dict[str, str]]:
    one = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def archive(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr(name, scale_model(1.0))
    return packed.getvalue()


def linked_tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        link = tarfile.TarInfo("model.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    return packed.getvalue()


UPLOAD = "/api/models/bad/versions"
SCALE, INFER, FLIGHT = "/predict/scale", "/v2/models/scale/infer", "/predict/flights"


def cases() -> Iterator[BadInput]:  # noqa: PLR0915 - a table, one line a case
    """The table."""
    yield BadInput("not JSON", SCALE, 400, "not valid JSON", b"hello")
    yield BadInput("not JSON, v2", INFER, 400, "not valid JSON", b"hello")
    yield BadInput("wrong shape", SCALE, 400, "shape", {"inputs": [1.0, 2.0]})
    yield BadInput("wrong shape, v2", INFER, 400, "shape", tensor(shape=[3, 1]))
    yield BadInput("wrong type", SCALE, 400, "number", {"inputs": ["a", "b", "c"]})
    yield BadInput("wrong type, v2", INFER, 400, "FP32", tensor(datatype="INT64"))
    for name, size, data in (
        ("too few bytes", 12, b"1234"),
        ("too many bytes", 12, struct.pack("<4f", 1, 2, 3, 4)),
        ("wrong number of bytes", 8, b"12345678"),
    ):
        body, headers = binary(size, data)
        yield BadInput(name, INFER, 400, "bytes", body, headers=headers)
    yield BadInput("NaN where refused", SCALE, 400, "JSON", b'{"inputs": [NaN, 1, 2]}')
    body, headers = binary(12, struct.pack("<3f", float("nan"), 1, 2))
    yield BadInput("NaN where refused, binary", INFER, 400, "finite", body, headers=headers)
    yield BadInput("unknown feature", FLIGHT, 400, "color", flight(color="red"))
    yield BadInput("unknown category", FLIGHT, 400, "origin", flight(origin="XXX"))
    yield BadInput("missing feature", FLIGHT, 400, "distance_miles", flight(distance_miles=...))
    yield BadInput("empty batch", SCALE, 400, "at least one", {"inputs": []})
    yield BadInput("empty batch, v2", INFER, 400, "at least one", tensor(shape=[0, 3], data=[]))
    yield BadInput("huge declared shape", INFER, 400, "shape", tensor(shape=[2**40, 3]))
    yield BadInput("body over the limit", SCALE, 413, str(BODY_LIMIT), b" " * (BODY_LIMIT + 1))
    yield BadInput("body over the limit, chunked", SCALE, 413, str(BODY_LIMIT), tuple(b" " * 50_000 for _ in range(6)))
    yield BadInput("unknown model", "/predict/nobody", 404, "nobody", {"inputs": 1})
    yield BadInput("unknown version", "/predict/scale?version=99", 404, "99", {"inputs": [1, 2, 3]})
    yield BadInput("unknown model, v2", "/v2/models/nobody/infer", 404, "nobody", tensor())
    yield BadInput("wrong method", SCALE, 405, "GET", method="GET")
    yield BadInput("unknown path", "/nowhere", 404, "/nowhere", method="GET")
    yield BadInput("a file that is no ONNX model", UPLOAD, 400, "ONNX", files=(("model.onnx", b"not a model"),))
    for name, location in (("../", "../secret"), ("absolute", "/etc/passwd")):
        yield BadInput(
            f"external data, {name}", UPLOAD, 400, "model.onnx", files=(("model.onnx", external_data_model(location)),)
        )
    yield BadInput("archive with ../", UPLOAD, 400, "relative", files=(("m.zip", archive("../model.onnx")),))
    yield BadInput(
        "archive with an absolute path", UPLOAD, 400, "relative", files=(("m.zip", archive("/tmp/model.onnx")),)
    )
    yield BadInput("archive with a link", UPLOAD, 400, "link", files=(("m.tar.gz", linked_tar()),))
    yield BadInput("file name with ../", UPLOAD, 400, "relative", files=(("../model.onnx", scale_model(1.0)),))
    yield BadInput("missing operator", UPLOAD, 400, "Teleport", files=(("model.onnx", unknown_operator_model()),))
    yield BadInput("pickle", UPLOAD, 400, "pickle", files=(("model.onnx", b"\x80\x04K\x01."),))
    yield BadInput("name with /", "/api/models/a%2Fb/versions", 404, "a", files=(("model.onnx", scale_model(1.0)),))
    yield BadInput("name ..", "/api/models/%2e%2e./versions", 400, "name", files=(("model.onnx", scale_model(1.0)),))
    yield BadInput("deep nesting", SCALE, 400, "nested", b'{"inputs": ' + b"[" * 60_000)
    yield BadInput("unknown encoding", SCALE, 415, "br", b"x", headers={"Content-Encoding": "br"})
    yield BadInput(
        "header length that is none", INFER, 400, "Length", b"{}", headers={"Inference-Header-Content-Length": "-1"}
    )
    yield BadInput(
        "a head of 70 kB", SCALE, 431, "limit", b"{}", headers={"X-Long": "x" * 50_000, "X-Longer": "x" * 20_000}
    )
    yield BadInput("unknown version to deploy", "/api/deployments/scale", 404, "99", {"version": 99}, method="PUT")
    yield BadInput("unknown key", "/api/deployments/scale", 400, "replicas", {"replicas": 3}, method="PUT")


def bad_input_server(directory: Path) -> SeawayServer:
    """A server with three models: flights, scale (y = 2x) and endless."""
    server = SeawayServer(home=directory / "home", max_body_bytes=BODY_LIMIT)
    server.__enter__()
    server.register("flights", FLIGHTS / "package")
    server.register("scale", write_package(directory / "scale", scale_model(2.0)))
    server.register("endless", write_package(directory / "endless", endless_model()))
    for model in ("flights", "scale", "endless"):
        server.deploy(model)
    # It answers as soon as one of its processes does.
    wait_until(lambda: all_ready(server), 30, server.stderr)
    return server


def all_ready(server: SeawayServer) -> bool:
    live = server.http.get("/api/status").json()["models"].values()
    return all(worker["phase"] == "ready" for state in live for worker in state["workers"])


def worker_pids(server: SeawayServer) -> dict[str, list[int]]:
    live = server.http.get("/api/status").json()["models"]
    return {model: [worker["pid"] for worker in state["workers"]] for model, state in live.items()}


def main() -> None:
    """Print the table of what a real server answers."""
    with tempfile.TemporaryDirectory() as directory:
        server = bad_input_server(Path(directory))
        try:
            before = worker_pids(server)
            for case in cases():
                answer = case.send(server.http)
                message = str(answer.json().get("error", answer.text))
                sys.stdout.write(f"| {case.name} | {answer.status_code} | {message[:140]} |\n")
            sys.stdout.write(f"same workers afterwards: {worker_pids(server) == before} {before}\n")
        finally:
            server.__exit__(None, None, None)


if __name__ == "__main__":
    main()
