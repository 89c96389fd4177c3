"""`/predict` bodies: `{"inputs": X, "parameters"?: {...}, "model"?: "name"}` and their answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest

_KEYS = ("inputs", "parameters", "model")


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What a `/predict` body says; `inputs` are plain Python values."""

    inputs: Any
    parameters: dict[str, Any] = field(default_factory=dict)
    model: str | None = None


class _Named(msgspec.Struct):
    model: str | None = None


_decode = msgspec.json.Decoder().decode
_decode_named = msgspec.json.Decoder(_Named).decode


def decode_predict(body: bytes | memoryview) -> PredictRequest:
    """Raises InvalidRequest saying what is wrong with the body. Of a key sent twice, the last counts."""
    value = _json(_decode, body)
    if not isinstance(value, dict):
        raise InvalidRequest('The body must be a JSON object: {"inputs": ...}.')
    for key in value:
        if key not in _KEYS:
            raise InvalidRequest(f"{key[:80]!r} is not known here; the body may have: {', '.join(_KEYS)}.")
    if "inputs" not in value:
        raise InvalidRequest('"inputs" is missing: send {"inputs": one sample or a list of samples}.')
    parameters = value.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest("parameters: expected an object.")
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model: expected a string.")
    return PredictRequest(value["inputs"], parameters or {}, model)


def peek_model(body: bytes | memoryview) -> str | None:
    """The model that the body names; parsed only when a byte search finds the word. Raises InvalidRequest."""
    if b'"model"' not in bytes(body):
        return None
    named = _json(_decode_named, body)
    return named.model if isinstance(named, _Named) else None


def _json(decode: Any, body: bytes | memoryview) -> Any:
    if not len(body):
        raise InvalidRequest('The body is empty; send JSON: {"inputs": ...}.')
    try:
        return decode(body)
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error


def encode_predict(model: str, version: int, prediction_id: str, outputs: Any) -> bytes:
    """The answer; arrays become lists, and numbers that are not finite become null, which JSON can say."""
    return _encode({"model": model, "version": version, "prediction_id": prediction_id, "outputs": _plain(outputs)})


_encode = msgspec.json.Encoder().encode


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _plain(array.tolist())
    return _plain(array.tolist()) if array.dtype.kind in {"O", "S"} else array.tolist()
