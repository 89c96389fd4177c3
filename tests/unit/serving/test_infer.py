"""A reader that has seen requests reads the next as one that has seen none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seaway.errors import SeawayError
from seaway.serving.infer import InferReader, Tensors
from seaway.types import Signature, TensorSpec
from seaway.wire import skeletons
from seaway.wire.skeletons import MAX_REMEMBERED, MAX_TEXT_BYTES, Skeletons

Y = (TensorSpec("y", "FP32", (-1, 1)), TensorSpec("z", "FP32", (-1, 1)))
ONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), Y)
TWO = Signature((TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "UINT8", (-1, -1))), Y)


def reader(signature: Signature = ONE) -> InferReader:
    return InferReader(signature, allow_nonfinite=False, limit=4)


def told(reader: InferReader, body: bytes) -> Any:
    """What it reads, or what it says, in a form that compares."""
    try:
        read = reader.read(body, None)
    except SeawayError as error:
        return type(error), str(error)
    return described(read)


def described(read: Tensors) -> Any:
    feeds = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in read.feeds.items()}
    return feeds, read.rows, read.names, read.request.id, read.request.parameters, read.request.outputs


def text(data: Any, *, shape: Any = (1, 2), **more: Any) -> bytes:
    tensor = {"name": "x", "shape": list(shape), "datatype": "FP32", "data": data}
    return json.dumps({**more, "inputs": [tensor]}).encode()


def knows(reader: InferReader, body: bytes) -> bool:
    return reader._skeletons.read(body) is not None


NUMBER = st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from([1e39, 2**70, True, None, "1", "]", "data", [1]])
LIST = st.lists(NUMBER, max_size=4) | st.lists(st.integers(0, 9), min_size=2, max_size=2)
REQUEST = st.builds(
    text,
    LIST | st.lists(LIST, max_size=2),
    shape=st.sampled_from([(1, 2), (1, 2), (2, 2), (2,), (5, 2)]),
    outputs=st.sampled_from(
        [[], [{"name": "y"}], [{"name": "y", "parameters": {"binary_data": True}}], [{"name": "data"}]]
    ),
    id=st.sampled_from(["", "", "7", '"data":[1,2]', "data"]),
    parameters=st.sampled_from([{}, {"timeout": 5}, {"data": [1]}]),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(REQUEST, min_size=2, max_size=6))
@example([text([1, 2]), text([3, 4])])
@example([text([1, 2]), text([3, True])])
@example([text([1, 2]), text([[3, 4]])])
def test_requests_are_read_alike_whatever_came_before(bodies: list[bytes]) -> None:
    experienced = reader()
    for body in bodies:
        assert told(experienced, body) == told(reader(), body)


@settings(max_examples=300)
@given(st.data())
def test_a_request_whose_bytes_are_changed_is_read_as_a_stranger_s(data: st.DataObject) -> None:
    body = text([1.5, -2])
    experienced = reader()
    experienced.read(body, None)
    at = data.draw(st.integers(0, len(body) - 1))
    end = data.draw(st.integers(at, min(len(body), at + 12)))
    new = data.draw(st.sampled_from([b"", b"]", b"[", b'"data"', b'"data":[', b"1,2", b" ", b"}", b"\\u0061", b"0"]))
    changed = body[:at] + new + body[end:]
    assert told(experienced, changed) == told(reader(), changed)


def two(ids: Any, mask: Any) -> bytes:
    tensors = [("ids", "INT64", ids), ("mask", "UINT8", mask)]
    return json.dumps(
        {"inputs": [{"name": n, "shape": [1, len(d)], "datatype": t, "data": d} for n, t, d in tensors]}
    ).encode()


@pytest.mark.parametrize("mask", [[1, 0], [0, 256], [0, -1], [0, 1.5], [0, 1.0], [1], [1, 1, 1], [], [[1], [1]]])
def test_several_tensors_are_read_alike(mask: Any) -> None:
    experienced = reader(TWO)
    experienced.read(two([101, 102], [1, 1]), None)
    assert knows(experienced, two([7, 8], [0, 1]))
    assert told(experienced, two([7, -8], mask)) == told(reader(TWO), two([7, -8], mask))


def test_only_the_numbers_of_a_known_request_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    experienced = reader()
    experienced.read(text([1, 2], outputs=[{"name": "z"}]), None)
    monkeypatch.setattr(InferReader, "_plain_json", None)
    monkeypatch.setattr(InferReader, "_any", None)
    read = experienced.read(text([0.1, 4], outputs=[{"name": "z"}]), None)
    assert read.names == ("z",)
    assert read.feeds["x"].tolist() == [[np.float32(0.1), 4.0]]


@pytest.mark.parametrize(
    "body",
    [
        text([1, 2], id="7"),
        text([[1, 2]]),
        text([1, 2], outputs=[{"name": "y"}], model_name="data"),
        text([1, 2]).replace(b'"x"', b'"\\u0078"'),
        text([1, 2]) + b" " * skeletons.MAX_SKELETON_BYTES,
        text([1, 2]) + b" " * MAX_TEXT_BYTES,
    ],
)
def test_what_is_of_one_request_or_not_plain_to_see_is_not_remembered(body: bytes) -> None:
    experienced = reader()
    experienced.read(body, None)
    assert not knows(experienced, body)


def test_what_was_refused_is_not_remembered() -> None:
    experienced = reader()
    for body in (text([1, 2, 3]), text([1] * 10, shape=(5, 2)), text([1, 2], parameters={"priority": "x"})):
        with pytest.raises(SeawayError):
            experienced.read(body, None)
        assert not knows(experienced, body)


def test_so_many_are_remembered_and_no_more() -> None:
    known: Skeletons[int] = Skeletons(1)
    tensor = [("x", np.zeros((1, 2), np.float32))]
    for n in range(3 * MAX_REMEMBERED):
        known.remember(text([1, 2], model_name=f"m{n}"), tensor, n)
        assert len(known._known) <= MAX_REMEMBERED
        assert known.read(text([3, 4], model_name=f"m{n}")) is not None


@pytest.mark.parametrize(
    ("body", "array"),
    [
        (b'{"id":"data","shape":[1,2],"data":[1,2]}', np.zeros((1, 2))),  # "data" is a value first
        (b'{"data":7,"shape":[1,2]}', np.zeros((1, 2))),  # the next list is another key's
        (b'{"data":[[1,2]]}', np.zeros((1, 2))),
        (b'{"data":[]}', np.zeros((0, 2))),
        (b'{"data":["1"]}', np.array(["1"], object)),
        (b'{"d":[1,2]}', np.zeros((1, 2))),
    ],
)
def test_texts_whose_lists_may_be_mistaken_are_not_remembered(body: bytes, array: Any) -> None:
    known: Skeletons[int] = Skeletons(1)
    known.remember(body, [("x", array)], 0)
    assert known._known == {}


@pytest.mark.parametrize(
    "moved",
    [
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":}[1,2]]}',
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data"[1,2]:}]}',
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":}]}[1,2]',
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":\0}]}[1,2]',
    ],
)
def test_a_list_in_another_place_is_another_request(moved: bytes) -> None:
    experienced = reader()
    experienced.read(b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}', None)
    with pytest.raises(SeawayError, match="not valid JSON"):
        experienced.read(moved, None)


def test_lists_of_several_tensors_in_other_places_are_another_request() -> None:
    experienced = reader(TWO)
    body = two([1, 2], [1, 1])
    experienced.read(body, None)
    moved = body.replace(b": [1, 2]}, {", b": }, [1, 2]{")
    assert moved != body
    assert told(experienced, moved) == told(reader(TWO), moved)
