"""`/predict` bodies: `{"inputs": X, "parameters"?: {}, "model"?: "name"}` and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.wire.strict import KEYS_CHECKED_BYTES, decode_json, refuse_nul, refuse_repeated_keys

_KEYS = ("inputs", "parameters", "model")


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What a `/predict` body says; `inputs` are plain Python values."""

    inputs: Any
    model: str | None = None


class _Named(msgspec.Struct):
    model: str | None = None


_decode = msgspec.json.Decoder().decode
_decode_named = msgspec.json.Decoder(_Named).decode


def decode_predict(body: bytes | memoryview) -> PredictRequest:
    """Raises InvalidRequest saying what is wrong with the body, an unknown key by its name.

    A key sent twice is refused in bodies up to `KEYS_CHECKED_BYTES`; in a larger one the last counts.
    """
    text = bytes(body)
    if not text:
        raise InvalidRequest('The body is empty; send JSON: {"inputs": ...}.')
    value = decode_json(_decode, text)
    if not isinstance(value, dict):
        raise InvalidRequest('The body must be a JSON object: {"inputs": ...}.')
    refuse_nul(text)
    if len(text) <= KEYS_CHECKED_BYTES:
        refuse_repeated_keys(text, _count_keys(value, text.count(b":")))
    for key in value:
        if key not in _KEYS:
            raise InvalidRequest(f"The key {key[:80]!r} is not known here; the body may have: {', '.join(_KEYS)}.")
    if "inputs" not in value:
        raise InvalidRequest('"inputs" is missing: send {"inputs": one sample or a list of samples}.')
    parameters = value.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest("parameters: expected an object.")
    for name in parameters or ():
        raise InvalidRequest(
            f"parameters.{name[:80]} is not known here: /predict takes none. A time limit is the header "
            "X-Request-Timeout-Seconds, a version ?version=."
        )
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model: expected a string.")
    return PredictRequest(value["inputs"], model)


def _count_keys(value: Any, enough: int) -> int:
    """The keys of all objects within `value`; stops looking at `enough`, so that plain numbers are not walked."""
    found = 0
    waiting = [value]
    while waiting and found < enough:
        value = waiting.pop()
        if isinstance(value, dict):
            found += len(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def peek_model(body: bytes | memoryview) -> str | None:
    """The model that the body names; parsed only when a byte search finds the word. Raises InvalidRequest."""
    text = bytes(body)
    return decode_json(_decode_named, text).model if b'"model"' in text else None


def encode_predict(model: str, version: int, prediction_id: str, outputs: Any) -> bytes:
    """The answer. Arrays become lists; numbers that are not finite become null, since JSON has no word for them."""
    return _encode({"model": model, "version": version, "prediction_id": prediction_id, "outputs": outputs})


def _plain(value: Any) -> Any:
    """What the encoder asks about because it doesn't know the type."""
    if isinstance(value, np.ndarray):
        return _texts(value) if value.dtype.kind in "OS" else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no form in an answer of /predict")


def _texts(array: np.ndarray[Any, Any]) -> Any:
    """Byte strings as text; what is not UTF-8 in them shows as U+FFFD."""
    texts = np.empty(array.size, dtype=np.object_)
    texts[:] = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in array.reshape(-1)]
    return texts.reshape(array.shape).tolist()


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
