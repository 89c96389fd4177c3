"""Reading request bodies raw: no content type is needed, a limit always holds, and no client can stall for ever."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import ClientDisconnect, Request

from seaway.errors import Cancelled, DeadlineExceeded, InvalidRequest, PayloadTooLarge

_DISCARD_SECONDS = 1.0


def declared_length(request: Request) -> int | None:
    """The Content-Length, or None. Raises InvalidRequest when it is no number."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidRequest("The header Content-Length must be a number of bytes.")
    return int(text)


async def read_body(request: Request, *, limit_bytes: int, silence_seconds: float) -> bytes:
    """The whole body. Raises PayloadTooLarge before it keeps more than the limit, DeadlineExceeded when it stalls."""
    length = declared_length(request)
    if length is not None and length > limit_bytes:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _discard(request, limit_bytes)
        raise PayloadTooLarge(f"The body has {length} bytes; the limit is {limit_bytes} (max_body_bytes).")
    chunks: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(silence_seconds):
                chunk = await anext(stream, None)
            if chunk is None:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            size += len(chunk)
            if size > limit_bytes:
                await _discard(request, limit_bytes)
                raise PayloadTooLarge(f"The body has more than {limit_bytes} bytes, the limit (max_body_bytes).")
            if chunk:
                chunks.append(chunk)
    except TimeoutError as error:
        raise DeadlineExceeded(f"Nothing of the body came for {silence_seconds:g} s (body_seconds).") from error
    except ClientDisconnect as error:
        raise Cancelled("The caller left before its body was complete.") from error


async def _discard(request: Request, limit_bytes: int) -> None:
    """Read on for a moment, so that a client that sends first and reads later gets the refusal and not a reset."""
    left = limit_bytes
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
