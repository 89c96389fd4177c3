"""Requests as bytes, and numbers out of replies, in each form that the systems speak."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.models import Array, Model

DATATYPES = {"float32": "FP32", "int64": "INT64"}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SENTENCE = "Model serving systems accept requests over the network and answer."
PLACEHOLDER = "@" * len(TRACEPARENT)
"""What a load generator replaces by a new random traceparent in each request."""


def _numbers(values: Array) -> list[Any]:
    """As few digits as give the same float32 again: what a client that prints floats would send."""
    if values.dtype == np.int64:
        return list(values.tolist())
    nested = [_numbers(value) if value.ndim else float(str(value)) for value in values]
    return list(nested)


def plain(inputs: dict[str, Array]) -> tuple[bytes, dict[str, str]]:
    """`{"X": [[...]]}`: what servers without a protocol of their own are usually written for."""
    return json.dumps({name: _numbers(values) for name, values in inputs.items()}).encode(), {}


def oip(inputs: dict[str, Array]) -> tuple[bytes, dict[str, str]]:
    """The Open Inference Protocol, numbers as JSON."""
    tensors = [{**_description(name, values), "data": _numbers(values.ravel())} for name, values in inputs.items()]
    return json.dumps({"inputs": tensors}).encode(), {}


def binary(inputs: dict[str, Array]) -> tuple[bytes, dict[str, str]]:
    """The Open Inference Protocol with its binary extension, both ways."""
    tensors = [
        {**_description(name, values), "parameters": {"binary_data_size": values.nbytes}}
        for name, values in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + b"".join(values.tobytes() for values in inputs.values()), headers


def _description(name: str, values: Array) -> dict[str, Any]:
    return {"name": name, "shape": list(values.shape), "datatype": DATATYPES[str(values.dtype)]}


ENCODERS = {"plain": plain, "oip": oip, "binary": binary}


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        **headers,
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def requests_of(model: Model, wire: str, path: str, variant: str = "") -> list[bytes]:
    """What is sent in turn. Variants: `traceparent` sends the same one always, `unseen` another in each request."""
    headers = {"traceparent": {"traceparent": TRACEPARENT, "unseen": PLACEHOLDER}[variant]} if variant else {}
    rows = range(model.rows if variant == "unseen" else 1)
    encoded = (ENCODERS[wire](model.row(index)) for index in rows)
    return [request(path, body, {**more, **headers}) for body, more in encoded]


def numbers_of(wire: str, body: bytes, headers: dict[str, str]) -> Array:
    """The numbers of a reply, flat. `headers` has its names in lower case."""
    length = headers.get("inference-header-content-length")
    if length is not None:
        head = json.loads(body[: int(length)])
        count = int(np.prod(head["outputs"][0]["shape"]))
        return np.frombuffer(body[int(length) :], np.float32, count)
    answer = json.loads(body)
    if wire in {"oip", "binary"}:
        return np.array(answer["outputs"][0]["data"], np.float32).ravel()
    if isinstance(answer, dict):
        answer = answer["output"]
    return np.array(answer, np.float32).ravel()
