"""Content encodings."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding
from seaway.wire import choose_encoding, pack, unpack


@pytest.mark.parametrize("name", ["gzip", "deflate", "identity", ""])
@given(data=st.binary(max_size=300))
def test_what_is_packed_unpacks_to_the_same(name: str, data: bytes) -> None:
    packed = pack([data[:10], memoryview(data[10:])], name)
    assert unpack(memoryview(packed), name, limit_bytes=300) == data


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_bomb_is_stopped_at_the_limit_in_bounded_memory(name: str) -> None:
    bomb = pack([bytes(50 << 20)], name)
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match="1000"):
        unpack(bomb, name, limit_bytes=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["gzip", "identity"])
def test_the_limit_itself_may_be_reached(name: str) -> None:
    assert unpack(pack([b"abc"], name), name, limit_bytes=3) == b"abc"
    with pytest.raises(PayloadTooLarge):
        unpack(pack([b"abcd"], name), name, limit_bytes=3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        gzip.compress(b"abc", mtime=0)[:-5],
        gzip.compress(b"abc", mtime=0)[:-1] + b"\1",
        gzip.compress(b"abc", mtime=0) + b"more",
        zlib.compress(b"x"),
    ],
)
def test_a_corrupt_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack(body, "gzip", limit_bytes=100)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=60), st.integers(0, 30))
def test_any_bytes_unpack_or_are_refused(name: str, junk: bytes, keep: int) -> None:
    with contextlib.suppress(InvalidRequest):
        unpack(pack([b"some text"], name)[:keep] + junk, name, limit_bytes=100)


@pytest.mark.parametrize("name", ["br", "gzip, gzip", "zstd", "gzip;q=1", "gzip,deflate"])
def test_other_encodings_are_not_read(name: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        unpack(b"x", name, limit_bytes=100)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "identity"),
        ("br", "identity"),
        ("*", "identity"),
        ("gzip, deflate, br", "gzip"),
        ("deflate", "deflate"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip; q=0, deflate", "deflate"),
        ("gzip;q=0", "identity"),
    ],
)
def test_the_answer_s_encoding_is_one_that_the_client_takes(accept: str, chosen: str) -> None:
    assert choose_encoding(accept) == chosen
