"""W3C trace context."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.telemetry.trace import TraceContext, continue_trace, parse

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


def bits(n: int) -> int:
    return random.Random(7).getrandbits(n)


def test_a_valid_header_is_read() -> None:
    assert parse(VALID) == TraceContext(TRACE, SPAN, flags=1)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "empty"),
        (f"ff-{TRACE}-{SPAN}-01", "version ff"),
        (f"00-{'0' * 32}-{SPAN}-01", "trace id of zeros"),
        (f"00-{TRACE}-{'0' * 16}-01", "span id of zeros"),
        (f"00-{TRACE.upper()}-{SPAN}-01", "upper case"),
        (f"00-{TRACE}-{SPAN}-1", "short flags"),
        (f"00-{TRACE}-{SPAN}-0g", "flags not hexadecimal"),
        (f"00-{TRACE[1:]}-{SPAN}-01", "short trace id"),
        (f"0-{TRACE}-{SPAN}-01", "short version"),
        (f"00-{TRACE}-{SPAN}-01-more", "version 00 has nothing after its flags"),
        (f"00-{TRACE}-{SPAN}-01-", "version 00 has nothing after its flags"),
        (f"01-{TRACE}-{SPAN}-01more", "more must begin with a dash"),
        (f"01-{TRACE}-{SPAN}-01,{VALID}", "two headers in one"),
        (f" {VALID}", "white space"),
        (f"{VALID}\n", "line end"),
        (VALID.replace("-", "_"), "no dashes"),
        (VALID.replace("4", "٤"), "digits of another script"),
    ],
)
def test_a_wrong_header_is_not_read(header: str, why: str) -> None:
    assert parse(header) is None, why


@pytest.mark.parametrize("more", ["", "-", "-what-the-future-brings"])
def test_a_newer_version_is_read_by_its_beginning(more: str) -> None:
    assert parse(f"cc-{TRACE}-{SPAN}-01{more}") == TraceContext(TRACE, SPAN, flags=1)


@pytest.mark.parametrize(("flags", "kept"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("08", "00")])
def test_flags_that_nobody_defined_are_sent_as_zero(flags: str, kept: str) -> None:
    assert continue_trace(f"00-{TRACE}-{SPAN}-{flags}", bits).format().endswith(f"-{kept}")


def test_a_trace_is_continued_under_the_callers_span() -> None:
    context = continue_trace(VALID, bits)
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, SPAN, True)
    assert context.span_id != SPAN
    assert context.format() == f"00-{TRACE}-{context.span_id}-01"


@pytest.mark.parametrize("header", [None, "nonsense"])
def test_without_a_valid_header_a_new_trace_begins(header: str | None) -> None:
    context = continue_trace(header, bits)
    assert context.parent_id is None
    assert not context.sampled
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", context.format())


def test_chance_that_gives_zero_still_gives_valid_ids() -> None:
    assert parse(continue_trace(None, lambda _: 0).format()) is not None


@given(header=st.none() | st.text(max_size=80), seed=st.integers())
def test_whatever_arrives_what_is_sent_on_is_valid(header: str | None, seed: int) -> None:
    context = continue_trace(header, random.Random(seed).getrandbits)
    assert parse(context.format()) == TraceContext(context.trace_id, context.span_id, flags=context.flags)
