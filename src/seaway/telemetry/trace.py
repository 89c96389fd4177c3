"""W3C Trace Context (level 1): read a caller's `traceparent`, continue its trace. Pure; chance is an argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Position 55 may only be followed by more in versions newer than 00, and then after a dash.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL | re.ASCII)

SAMPLED = 0x01
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
# Level 2 adds "the trace id is random", which whoever continues a trace passes on; other bits must be sent as zero.
_KNOWN_FLAGS = 0x03


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Our own span in a trace, ids in hexadecimal; `parent_id` is the caller's span, None when we began the trace."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    flags: int = 0

    @property
    def sampled(self) -> bool:
        """True when the caller says that it may have recorded this trace."""
        return bool(self.flags & SAMPLED)

    def format(self) -> str:
        """The `traceparent` to send on, with this span as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & _KNOWN_FLAGS:02x}"


def parse(header: str) -> TraceContext | None:
    """The sender's span as `header` names it; None when the header is not valid, which means: start a new trace.

    >>> parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").span_id
    '00f067aa0ba902b7'
    >>> parse("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, flags=int(flags, 16) & _KNOWN_FLAGS)


def continue_trace(header: str | None, random: Callable[[int], int]) -> TraceContext:
    """A new span under the caller's, or in a new trace when `header` is None or not valid.

    `random` gives a number of so many random bits, as `random.getrandbits` does.
    """
    parent = parse(header) if header is not None else None
    # All-zero ids are not valid; chance gives one every 2**64 times.
    span_id = f"{random(64) or 1:016x}"
    if parent is None:
        return TraceContext(f"{random(128) or 1:032x}", span_id)
    return TraceContext(parent.trace_id, span_id, parent.span_id, parent.flags)


def next_traceparent(header: str | None, random: Callable[[int], int]) -> str:
    """What `continue_trace` gives as text; the usual case, a caller without a trace, costs one formatting."""
    if header is None:
        ids = random(192).to_bytes(24, "big").hex()
        trace, span = ids[:32], ids[32:]
        # All-zero ids are not valid; chance gives one every 2**64 times.
        if trace != _NO_TRACE and span != _NO_SPAN:
            return f"00-{trace}-{span}-00"
    return continue_trace(header, random).format()
