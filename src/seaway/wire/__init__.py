"""Bytes to values and back: the Open Inference Protocol, `/predict`, content encodings. No behaviour.

`seaway.wire.multipart` is not behind this door: its parser is 1 MB that few workers need.
"""

from seaway.wire.encoding import choose_encoding, pack, unpack
from seaway.wire.oip import Encoded, InferRequest, InferTensor, RequestedOutput, decode_infer, encode_infer
from seaway.wire.predict import PredictRequest, decode_predict, encode_predict, peek_model

__all__ = [
    "Encoded",
    "InferRequest",
    "InferTensor",
    "PredictRequest",
    "RequestedOutput",
    "choose_encoding",
    "decode_infer",
    "decode_predict",
    "encode_infer",
    "encode_predict",
    "pack",
    "peek_model",
    "unpack",
]
