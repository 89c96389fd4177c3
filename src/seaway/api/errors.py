"""From the error tree to HTTP: one table of statuses, one shape of body, for every route and for no route at all."""

from __future__ import annotations

import math

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from seaway import errors
from seaway.errors import Overloaded, SeawayError

log = structlog.get_logger()

_CLIENT_CLOSED = 499

STATUSES: dict[type[SeawayError], int] = {
    errors.InvalidRequest: 400,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedEncoding: 415,
    errors.MethodNotAllowed: 405,
    errors.HeadersTooLarge: 431,
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.Cancelled: _CLIENT_CLOSED,
    errors.Unavailable: 503,
    errors.NotSupported: 501,
    errors.WarmUpFailed: 400,
}
"""What an error's status is, by the nearest class in its tree; the rest is 500."""


def status_of(error: SeawayError) -> int:
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return 500


def error_response(error: SeawayError) -> JSONResponse:
    """`{"error": message}` with the error's status."""
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.PayloadTooLarge | errors.HeadersTooLarge):
        # What is left of the request is not read.
        headers["Connection"] = "close"
    return JSONResponse({"error": str(error)}, status_of(error), headers)


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of every route, unknown routes and wrong methods too, the same shape."""

    async def seaway_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SeawayError)  # noqa: S101 - registered for it below
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        text = {
            404: f"There is no path {request.url.path[:200]!r}; /docs lists them.",
            405: f"{request.method} is not offered at {request.url.path[:200]!r}; /docs lists what is.",
        }.get(error.status_code, str(error.detail))
        return JSONResponse({"error": text}, error.status_code, dict(error.headers or {}))

    async def validation_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return error_response(errors.InvalidRequest(explain(error.errors())))

    async def client_left(_request: Request, _error: Exception) -> JSONResponse:
        return error_response(errors.Cancelled("The caller left before its request was complete."))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("request.crashed", path=request.url.path, exc_info=error)
        return JSONResponse({"error": "Something went wrong in the server; its log says what."}, 500)

    app.add_exception_handler(SeawayError, seaway_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ClientDisconnect, client_left)
    app.add_exception_handler(Exception, unexpected)


def explain(found: object) -> str:
    """The first of pydantic's findings as a sentence that names the field."""
    first = next(iter(found)) if isinstance(found, list | tuple) and found else {}
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in {"body", "query", "path"})
    message = str(first.get("msg", "is wrong"))
    return f"{place or 'The body'}: {message[:1].lower()}{message[1:]}."
