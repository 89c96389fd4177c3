"""`/predict` bodies: `{"inputs": X, "parameters"?: {}, "model"?: "name"}` and their answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.wire.numbers import write_numbers
from seaway.wire.strict import KEYS_CHECKED_BYTES, decode_json, refuse_nul, refuse_repeated_keys

_KEYS = ("inputs", "parameters", "model")


_OPENING = re.compile(rb'\s*\{\s*"inputs"\s*:((?:\s*[\[{]){0,40})')


class PredictRequest(msgspec.Struct, frozen=True, gc=False):
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


class PlainBodies:
    """Reads the bodies that a model gets most, straight into the types of their `inputs`.

    None for every other body, sound or not: `decode_predict` then reads it or says what is wrong with it.
    """

    def __init__(self, kinds: Mapping[bytes, Any]) -> None:
        """`kinds`: a type for the inputs that begin with these brackets. One that lets unknown keys pass won't do."""
        self._decoders = {
            opening: msgspec.json.Decoder(
                msgspec.defstruct(
                    "Body", [("inputs", kind), ("model", str | None, None)], forbid_unknown_fields=True, gc=False
                )
            ).decode
            for opening, kind in kinds.items()
        }

    def decode(self, text: bytes) -> tuple[bytes, Any, str | None, int | None] | None:
        """The brackets, what `inputs` decoded into, the model, and how many keys are within `inputs`.

        The keys are None in a body over `KEYS_CHECKED_BYTES`. More keys than there are in the value: one came twice.
        """
        begins = _OPENING.match(text)
        # A backslash may hide a key or a NUL.
        if begins is None or b"\\" in text:
            return None
        opening = begins[1]
        decode = self._decoders.get(opening)
        if decode is None:
            opening = opening.translate(None, b" \t\r\n")
            decode = self._decoders.get(opening)
            if decode is None:
                return None
        try:
            body: Any = decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        n_keys = None if len(text) > KEYS_CHECKED_BYTES else text.count(b":") - 1 - (body.model is not None)
        return opening, body.inputs, body.model, n_keys


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
    return PredictAnswers(model, version).encode(prediction_id, outputs)


class PredictAnswers:
    """Writes the answers of one version, as `encode_predict` does; what they share is written once."""

    def __init__(self, model: str, version: int) -> None:
        self._head = _encode({"model": model, "version": version})[:-1] + b',"prediction_id":'

    def encode(self, prediction_id: str, outputs: Any) -> bytes:
        return b"".join((self._head, _encode(prediction_id), b',"outputs":', _encode(outputs), b"}"))


def _plain(value: Any) -> Any:
    """What the encoder asks about because it doesn't know the type."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "fiub":
            return msgspec.Raw(write_numbers(value))
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
