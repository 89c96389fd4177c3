"""Uploaded files."""

from __future__ import annotations

import contextlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest, PayloadTooLarge
from seaway.wire.multipart import first_file

FORM = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n--b--\r\n'
FILE = FORM % (b"image", b'; filename="x.png"', b"by\r\n-tes")
TYPE = "multipart/form-data; boundary=b"


def test_the_file_of_a_form_is_found() -> None:
    assert first_file(memoryview(FILE), TYPE, limit=100) == b"by\r\n-tes"


def test_fields_beside_the_file_are_passed_over() -> None:
    field = b'--b\r\nContent-Disposition: form-data; name="note; filename=x"\r\n\r\ntext\r\n'
    assert first_file(field + FILE, TYPE, limit=100) == b"by\r\n-tes"


@pytest.mark.parametrize(
    ("body", "content_type", "what"),
    [
        (FORM % (b"image", b"", b"bytes"), TYPE, "no file"),
        (FILE, "multipart/form-data", "no boundary"),
        (FILE, "", "no boundary"),
        (FILE, "multipart/form-data; boundary=\u20ac", "no boundary"),
        (FILE, "multipart/form-data; boundary=" + "b" * 5000, "broken"),
        (b"garbage", TYPE, "broken"),
        (b"", TYPE, "no file"),
        (FILE[:70], TYPE, "no file"),
        (FILE.replace(b"--b--\r\n", b"") + FILE, TYPE, "2 files"),
        (FORM % (b"image", b"; x=" + b"y" * 10_000, b"bytes"), TYPE, "broken|no file"),
        (b"--b\r\n\r\n\r\n" * 100, TYPE, "32 parts"),
    ],
)
def test_a_form_without_one_readable_file_is_refused(body: bytes, content_type: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        first_file(body, content_type, limit=20_000)


def test_a_file_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="100"):
        first_file(FORM % (b"image", b'; filename="x"', b"b" * 200), TYPE, limit=100)


def test_a_broken_form_writes_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidRequest):
        first_file(b"garbage", TYPE, limit=100)
    assert not caplog.records


@given(st.binary(max_size=200), st.text(max_size=60))
def test_any_form_and_any_content_type_are_read_or_refused(body: bytes, tail: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert first_file(b"--b\r\n" + body, TYPE, limit=100) is not None
    with contextlib.suppress(InvalidRequest):
        assert first_file(FILE + body, "multipart/form-data; boundary=" + tail, limit=100) is not None
