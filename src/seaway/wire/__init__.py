"""Bytes to values and back: the Open Inference Protocol, `/predict`, content encodings, multipart. No behaviour."""
