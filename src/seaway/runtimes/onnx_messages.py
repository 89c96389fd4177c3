"""The messages of onnx.proto with the fields that are looked at, read and written by Protocol Buffers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from seaway.runtimes.onnx_wire import fields

_NODE_FIELDS = frozenset({1, 2, 4, 7})
"""Inputs, outputs, operator and domain."""
_ATTRIBUTE = 5
SMALL_BYTES = 4096
"""Nodes and tensors above that are read without what makes them large, which nobody asks for."""


def _schema() -> Mapping[str, Any]:
    """A class for each message of onnx.proto with the fields that are looked at, by the numbers they have there.

    Names are bytes: ONNX Runtime takes those that are not UTF-8, too.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    number, real, raw = kinds.TYPE_INT64, kinds.TYPE_FLOAT, kinds.TYPE_BYTES
    # Of each field: its number, its type or message, and whether it is repeated.
    messages: dict[str, dict[str, tuple[int, int | str, bool]]] = {
        "Opset": {"domain": (1, raw, False), "version": (2, number, False)},
        "Value": {"name": (1, raw, False)},
        "Node": {
            "input": (1, raw, True), "output": (2, raw, True), "name": (3, raw, False), "op_type": (4, raw, False),
            "attribute": (5, "Attribute", True), "domain": (7, raw, False),
        },
        "Attribute": {
            "name": (1, raw, False), "f": (2, real, False), "i": (3, number, False), "t": (5, "Tensor", False),
            "ints": (8, number, True),
            "g": (6, raw, False), "graphs": (11, raw, True), "type": (20, number, False),
        },
        "Tensor": {
            "dims": (1, number, True), "data_type": (2, number, False), "float_data": (4, real, True),
            "int64_data": (7, number, True), "name": (8, raw, False), "raw_data": (9, raw, False),
        },
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="seaway/onnx.proto", package="seaway.onnx", syntax="proto2")
    for name, parts in messages.items():
        message = file.message_type.add(name=name)
        for part, (at, kind, repeated) in parts.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=part, number=at, label=label, type=kinds.TYPE_MESSAGE, type_name=f".seaway.onnx.{kind}"
                )
            else:
                message.field.add(name=part, number=at, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"seaway.onnx.{name}")) for name in messages
    }


@functools.cache
def classes() -> Mapping[str, Any]:
    """The messages by name."""
    return _schema()


def parse(kind: str, data: bytes | memoryview) -> Any:
    """One of them. Raises DecodeError."""
    message = classes()[kind]()
    message.ParseFromString(bytes(data))
    return message


def parse_node(data: memoryview, *, attributes: bool = False) -> Any:
    """A node; a large one without its attributes, or with those that are small. Raises DecodeError and ValueError."""
    if len(data) <= SMALL_BYTES:
        return parse("Node", data)
    kept = [
        data[start:stop]
        for number, _, start, begin, stop in fields(data)
        if number in _NODE_FIELDS or (attributes and number == _ATTRIBUTE and stop - begin <= SMALL_BYTES)
    ]
    return parse("Node", b"".join(kept))
