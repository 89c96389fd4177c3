"""`/predict` and `.../infer`: HTTP in front of the data plane. The body goes to a worker as it came."""

from __future__ import annotations

import random
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter

from seaway.api.bodies import read_body
from seaway.config import Settings
from seaway.errors import InvalidRequest, NotFound, Overloaded, SeawayError
from seaway.serving.flight import InferCall, Prediction
from seaway.serving.plane import DataPlane
from seaway.telemetry.trace import continue_trace
from seaway.wire.predict import peek_model

log = structlog.get_logger()

_JSON_SEARCH_BYTES = 1 << 16
_MAX_TIMEOUT_SECONDS = 3600.0
_MAX_DIGITS = 15

ModelName = Annotated[str, PathParameter(description="Name of a deployed model.")]
Version = Annotated[str | None, Query(description="Version number; without it, the deployment decides.")]

_PREDICT_DOC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {"description": "One sample, or a list of samples."},
                        "parameters": {"type": "object", "maxProperties": 0},
                        "model": {"type": "string"},
                    },
                },
                "example": {"inputs": {"carrier": "UA", "origin": "EWR", "dest": "IAH"}},
            }
        },
    }
}
_INFER_DOC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["inputs"]},
                "example": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class _Asked(msgspec.Struct):
    """What of an inference request's parameters concerns routing."""

    parameters: dict[str, Any] = {}


class InferenceEdge:
    """Turns HTTP requests into calls of the data plane, and its answers into responses."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._plane = plane
        self._settings = settings
        self.closing = False

    async def answer(self, request: Request, *, model: str | None, version: str | None, protocol: str) -> Response:
        headers = request.headers
        body = await read_body(
            request, limit_bytes=self._settings.max_body_bytes, silence_seconds=self._settings.body_seconds
        )
        if model is None:
            model = peek_model(body)
        if not model:
            raise InvalidRequest('Say which model: POST /predict/{model}, or "model" in the body of POST /predict.')
        packed = headers.get("content-encoding", "") not in {"", "identity"}
        size = None if packed else len(body)
        header_length = read_header_length(headers.get("inference-header-content-length"), size)
        timeout = read_timeout(headers.get("x-request-timeout-seconds"))
        if timeout is None and protocol == "infer":
            timeout = asked_timeout(body[: header_length or None])
        trace = continue_trace(headers.get("traceparent"), random.getrandbits)
        about = {"request_id": headers.get("x-request-id"), "trace_id": trace.trace_id, "model": model}
        call = InferCall(
            model, version, protocol, body,
            timeout_seconds=timeout,
            key=headers.get("seaway-key"),
            header_length=header_length,
            content_type=headers.get("content-type", ""),
            content_encoding=headers.get("content-encoding", ""),
            accept_encoding=headers.get("accept-encoding", "") if protocol == "infer" else "",
        )  # fmt: skip
        try:
            prediction = await self._plane.predict(call, left=lambda: _left(request))
        except SeawayError as error:
            # What callers do wrong is theirs to know; what the server couldn't do is the operator's.
            write = log.debug if isinstance(error, (InvalidRequest, NotFound, Overloaded)) else log.warning
            write("request.refused", **about, code=error.code, reason=str(error))
            raise
        log.debug("request.finished", **about, prediction_id=prediction.prediction_id, ms=prediction.total_ns / 1e6)
        return _response(prediction, trace.format())


async def _left(request: Request) -> None:
    """Ends when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(prediction: Prediction, traceparent: str) -> Response:
    answer = prediction.result.answer
    run_ns = answer.input_ns + answer.infer_ns + answer.output_ns
    headers = {
        "content-type": answer.content_type,
        "server-timing": server_timing(answer.queue_ns, run_ns, answer.batch_ns, answer.batch_rows),
        "seaway-version": str(prediction.served.version),
        "seaway-prediction-id": prediction.prediction_id,
        "traceparent": traceparent,
    }
    if answer.header_length is not None:
        headers["inference-header-content-length"] = str(answer.header_length)
    if answer.content_encoding:
        headers["content-encoding"] = answer.content_encoding
    if answer.cut:
        headers["seaway-truncated"] = str(answer.cut)
    return Response(bytes(prediction.result.body), headers=headers)


def read_header_length(text: str | None, size: int | None) -> int | None:
    """The header Inference-Header-Content-Length, of a body of `size` bytes. Raises InvalidRequest."""
    if text is None:
        return None
    # With a content encoding it counts unpacked bytes; the worker, which unpacks, compares it with those.
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS or (size is not None and int(text) > size):
        limit = "" if size is None else f" from 0 to {size}, the length of the body"
        raise InvalidRequest(f"The header Inference-Header-Content-Length must be a number{limit}.")
    return int(text)


def server_timing(queue_ns: int, run_ns: int, batch_ns: int, batch_rows: int) -> str:
    """The header Server-Timing: where the time went, in milliseconds, and the size of the batch if there was one.

    >>> server_timing(250_000, 4_000_000, 0, 0), server_timing(0, 4_000_000, 1_500_000, 12)
    ('queue;dur=0.250, batch;dur=0, run;dur=4.000', 'queue;dur=0.000, batch;dur=1.500;desc="12 rows", run;dur=4.000')
    """
    batch = f'{batch_ns / 1e6:.3f};desc="{batch_rows} rows"' if batch_rows else "0"
    return f"queue;dur={queue_ns / 1e6:.3f}, batch;dur={batch}, run;dur={run_ns / 1e6:.3f}"


def read_timeout(text: str | None) -> float | None:
    """The header X-Request-Timeout-Seconds. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        seconds = float(text) if "_" not in text else -1.0  # Python's own spelling
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _MAX_TIMEOUT_SECONDS:
        raise InvalidRequest(
            f"The header X-Request-Timeout-Seconds must be a number from 0 to {_MAX_TIMEOUT_SECONDS:g}."
        )
    return seconds


def asked_timeout(json_part: bytes | memoryview) -> float | None:
    """The protocol's `timeout` parameter (µs); the JSON is parsed here only when a byte search finds the word."""
    if len(json_part) > _JSON_SEARCH_BYTES or b'"timeout"' not in (text := bytes(json_part)):
        return None
    try:
        value = msgspec.json.decode(text, type=_Asked).parameters.get("timeout")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # the worker says what is wrong with the body
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_TIMEOUT_SECONDS * 1e6:
        raise InvalidRequest("parameters.timeout must be a whole number of microseconds above 0.")
    return value / 1e6


def inference_routes(edge: InferenceEdge) -> APIRouter:
    """The hot paths."""
    router = APIRouter(tags=["inference"])

    @router.post("/predict/{model}", openapi_extra=_PREDICT_DOC, summary="Predict")
    async def predict(request: Request, model: ModelName, version: Version = None) -> Response:
        """One sample in, one output out; a list of samples in, a list out."""
        return await edge.answer(request, model=model, version=version, protocol="predict")

    @router.post("/predict", openapi_extra=_PREDICT_DOC, summary="Predict, model named in the body")
    async def predict_named(request: Request, version: Version = None) -> Response:
        return await edge.answer(request, model=None, version=version, protocol="predict")

    @router.post("/v2/models/{model}/infer", openapi_extra=_INFER_DOC, summary="Infer (Open Inference Protocol)")
    async def infer(request: Request, model: ModelName) -> Response:
        return await edge.answer(request, model=model, version=None, protocol="infer")

    @router.post("/v2/models/{model}/versions/{version}/infer", openapi_extra=_INFER_DOC, summary="Infer, by version")
    async def infer_version(request: Request, model: ModelName, version: str) -> Response:
        return await edge.answer(request, model=model, version=version, protocol="infer")

    return router
