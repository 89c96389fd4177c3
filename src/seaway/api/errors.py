"""From the error tree to HTTP: one table of statuses, one shape of body, for every route and for no route at all."""

from __future__ import annotations

import json
import math

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from seaway import errors
from seaway.api.explain import explain
from seaway.errors import Overloaded, SeawayError, Unavailable

log = structlog.get_logger()

_CLIENT_CLOSED = 499
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

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


def error_parts(error: SeawayError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer `{"error": message}`."""
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.PayloadTooLarge | errors.HeadersTooLarge):
        # What is left of the request is not read.
        headers["Connection"] = "close"
    return status_of(error), headers, json.dumps({"error": str(error)}).encode()


def error_response(error: SeawayError) -> Response:
    """`{"error": message}` with the error's status."""
    status, headers, body = error_parts(error)
    return Response(body, status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of every route, unknown routes and wrong methods too, the same shape."""

    async def seaway_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, SeawayError)  # noqa: S101 - registered for it below
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        path = request.url.path[:200]
        text, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            text = f"There is no path {path!r}; /docs lists them."
        if error.status_code == 405:
            offered = ", ".join(_methods_at(app, request))
            text, headers = f"{path!r} takes {offered}, not {request.method[:20]}.", {"Allow": offered}
        return JSONResponse({"error": text}, error.status_code, headers)

    async def validation_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return error_response(errors.InvalidRequest(explain(error.errors())))

    async def client_left(_request: Request, _error: Exception) -> Response:
        return error_response(errors.Cancelled("The caller left before its request was complete."))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("request.crashed", method=request.method, path=request.url.path, exc_info=error)
        return JSONResponse({"error": "Something went wrong in the server; its log says what."}, 500)

    app.add_exception_handler(SeawayError, seaway_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ClientDisconnect, client_left)
    app.add_exception_handler(Exception, unexpected)


def _methods_at(app: FastAPI, request: Request) -> list[str]:
    """Every method that some route offers at the request's path; the framework itself knows one route's."""

    def offered(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)

    return [method for method in _METHODS if offered(method)]
