"""Reading what the server answered: JSON objects, refusals as SeawayErrors, durations."""

from __future__ import annotations

import httpx

from seaway.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    NotSupported,
    Overloaded,
    PayloadTooLarge,
    SeawayError,
    Unauthorized,
    Unavailable,
    UnsupportedEncoding,
)
from seaway.types import Json

_BY_STATUS: dict[int, type[SeawayError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: MethodNotAllowed,
    408: DeadlineExceeded,
    409: Conflict,
    413: PayloadTooLarge,
    415: UnsupportedEncoding,
    429: Overloaded,
    431: HeadersTooLarge,
    499: Cancelled,
    501: NotSupported,
    503: Unavailable,
    504: DeadlineExceeded,
}


def read_object(response: httpx.Response) -> Json:
    if response.status_code == httpx.codes.NO_CONTENT:
        return {}
    try:
        value = response.json()
    except ValueError as error:
        raise Unavailable(f"The server at {response.url} doesn't speak JSON; is it a Seaway server?") from error
    if not isinstance(value, dict):
        raise Unavailable(f"The server at {response.url} doesn't answer with an object; is it a Seaway server?")
    return value


def refusal(response: httpx.Response) -> SeawayError:
    """The error that the server raised, as far as its status tells."""
    status = response.status_code
    try:
        message = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"The server at {response.url} answered {status} without saying why; is it a Seaway server?"
    kind = _BY_STATUS.get(status, SeawayError if status >= httpx.codes.INTERNAL_SERVER_ERROR else InvalidRequest)
    if kind is Overloaded:
        return Overloaded(message, retry_after_seconds=_seconds(response.headers.get("retry-after", "")))
    return kind(message)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 1.0


def server_timing(text: str) -> dict[str, float]:
    """Durations out of a Server-Timing header.

    >>> server_timing("queue;dur=0.12, run;dur=3.5")
    {'queue': 0.12, 'run': 3.5}
    """
    found = {}
    for entry in text.split(","):
        name, _, parameters = entry.strip().partition(";")
        _, mark, duration = parameters.partition("dur=")
        if mark:
            found[name] = float(duration.partition(";")[0])
    return found
