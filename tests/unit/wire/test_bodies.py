"""`/predict` bodies, content encodings and uploaded files."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding
from seaway.wire.encoding import choose_encoding, pack, unpack
from seaway.wire.multipart import first_file
from seaway.wire.predict import decode_predict, encode_predict, peek_model

FORM = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n--b--\r\n'
TYPE = "multipart/form-data; boundary=b"


def test_inputs_parameters_and_model_are_read() -> None:
    decoded = decode_predict(b'{"inputs": [1], "parameters": {"a": 1}, "model": "m"}')
    assert (decoded.inputs, decoded.parameters, decoded.model) == ([1], {"a": 1}, "m")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b"{}", '"inputs" is missing'),
        (b'{"inputs": 1, "instance": 2}', "'instance' is not known"),
        (b'{"inputs": 1, "parameters": 2}', "parameters"),
        (b'{"inputs": 1, "model": 2}', "model"),
        (b'{"inputs": NaN}', "not valid JSON"),
        (b'{"inputs": "\xff"}', "."),
        (b'{"inputs": ' + b"[" * 250_000, "."),
    ],
)
def test_a_wrong_predict_body_is_refused_and_named(body: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        decode_predict(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_predict_body_or_a_clear_error(body: bytes) -> None:
    try:
        decode_predict(body)
    except InvalidRequest as error:
        assert str(error)


def test_the_model_is_found_in_the_body_only_where_it_is_named() -> None:
    assert peek_model(b'{"inputs": 1}') is None
    assert peek_model(b'{"inputs": 1, "model": "m"}') == "m"
    assert peek_model(b'{"inputs": "\\"model\\""}') is None


def test_numbers_that_are_not_finite_leave_predict_as_null() -> None:
    body = encode_predict("m", 1, "id", {"a": np.array([1.0, np.nan], np.float32), "b": [float("inf")], "c": np.float64(2)})
    assert msgspec.json.decode(body)["outputs"] == {"a": [1.0, None], "b": [None], "c": 2.0}


@pytest.mark.parametrize("name", ["gzip", "deflate"])
@given(data=st.binary(max_size=300))
def test_what_is_packed_unpacks_to_the_same(name: str, data: bytes) -> None:
    assert unpack(pack([data[:10], data[10:]], name), name, limit_bytes=300) == data


def test_a_bomb_is_stopped_at_the_limit() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    with pytest.raises(PayloadTooLarge, match="1000"):
        unpack(bomb, "gzip", limit_bytes=1000)


@pytest.mark.parametrize("body", [b"", b"junk", gzip.compress(b"abc")[:-5], gzip.compress(b"abc") + b"more", zlib.compress(b"x")])
def test_a_corrupt_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack(body, "gzip", limit_bytes=100)


@pytest.mark.parametrize("name", ["br", "gzip, gzip", "zstd", "gzip;q=1"])
def test_other_encodings_are_not_read(name: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        unpack(b"x", name, limit_bytes=100)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [("", "identity"), ("br", "identity"), ("gzip, deflate, br", "gzip"), ("deflate", "deflate"), ("gzip;q=0", "identity")],
)
def test_the_answer_s_encoding_is_one_that_the_client_takes(accept: str, chosen: str) -> None:
    assert choose_encoding(accept) == chosen


def test_the_file_of_a_form_is_found() -> None:
    assert first_file(FORM % (b"image", b'; filename="x.png"', b"bytes"), TYPE, limit=100) == b"bytes"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FORM % (b"image", b"", b"bytes"), TYPE),
        (FORM % (b"image", b'; filename="x"', b"bytes"), "multipart/form-data"),
        (b"garbage", TYPE),
        (b"", TYPE),
        (FORM % (b"image", b"; x=" + b"y" * 10_000, b"bytes"), TYPE),
        (b"--b\r\n\r\n\r\n" * 100, TYPE),
    ],
)
def test_a_form_without_a_readable_file_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        first_file(body, content_type, limit=100)


def test_a_file_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        first_file(FORM % (b"image", b'; filename="x"', b"b" * 200), TYPE, limit=100)


@given(st.binary(max_size=200))
def test_any_form_is_read_or_refused(body: bytes) -> None:
    values: list[Any] = []
    try:
        values.append(first_file(b"--b\r\n" + body, TYPE, limit=100))
    except InvalidRequest as error:
        assert str(error)
    assert all(isinstance(value, bytes) for value in values)
