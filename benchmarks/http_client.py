"""The few management requests of the harness, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 120.0
BOUNDARY = "seaway-benchmark"
OWN_FILES = {"inputs.npz", "expected.npy"}
"""What the benchmark keeps beside a model, and that is not part of its package."""


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status, and the answer if it is a JSON object."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    return response.status, json.loads(content) if content.startswith(b"{") else {}


def register(port: int, name: str, package: Path) -> None:
    """Upload a folder to Seaway as a version of a model."""
    parts = []
    for path in sorted(package.iterdir()):
        if path.name not in OWN_FILES:
            disposition = f'form-data; name="files"; filename="{path.name}"'
            parts.append(f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode())
            parts += [path.read_bytes(), b"\r\n"]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    status, answer = ask(port, "POST", f"/api/models/{name}/versions", body, **{"Content-Type": kind})
    if status not in {200, 201}:
        raise RuntimeError(f"Seaway refused {name}: {answer}")
