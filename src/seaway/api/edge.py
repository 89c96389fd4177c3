"""What every request passes before any route: size of its head, the API key, and the way to control.

Plain ASGI, outermost first: `HeadLimits`, `KeyCheck`, `ControlProxy`, then the gateway's FastAPI application.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import httpx
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from seaway.api.errors import error_response
from seaway.errors import HeadersTooLarge, SeawayError, Unauthorized, Unavailable

log = structlog.get_logger()

MAX_HEAD_BYTES = 1 << 16
MAX_HEADERS = 256
MAX_PATH_BYTES = 8192
_CONTROL_PREFIXES = ("/api", "/metrics", "/docs", "/redoc", "/openapi.json", "/console", "/v2/repository")
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "authorization", "x-api-key", "expect",
}  # fmt: skip


async def _refuse(error: SeawayError, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(error)(scope, receive, send)


class HeadLimits:
    """Refuses request heads that no honest client sends; the HTTP parser itself has no such limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = scope["headers"]
            size = len(scope["raw_path"] or b"") + len(scope["query_string"])
            if size > MAX_PATH_BYTES:
                await _refuse(
                    HeadersTooLarge(f"The path has {size} bytes; the limit is {MAX_PATH_BYTES}."), scope, receive, send
                )
                return
            head = sum([len(name) + len(value) for name, value in headers])
            if len(headers) > MAX_HEADERS or head > MAX_HEAD_BYTES:
                message = (
                    f"{len(headers)} headers with {head} bytes; the limits are {MAX_HEADERS} and {MAX_HEAD_BYTES}."
                )
                await _refuse(HeadersTooLarge(message), scope, receive, send)
                return
        await self._app(scope, receive, send)


class KeyCheck:
    """Asks for the API key on every route when one is set: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not admits(scope["headers"], self._key):
            error = Unauthorized("Send the API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)


def admits(headers: Iterable[tuple[bytes, bytes]], key: bytes) -> bool:
    """Whether the headers (lower-case names) bring the API key, and only it."""
    given = [value for name, value in headers if name == b"x-api-key"]
    bearers = [value for name, value in headers if name == b"authorization"]
    given += [value[7:].strip() for value in bearers if value[:7].lower() == b"bearer "]
    # Two credentials in one request are one too many: nobody should guess which of them counts.
    return len(given) == 1 and len(bearers) <= 1 and hmac.compare_digest(given[0], key)


class ControlProxy:
    """Passes what control answers on to its Unix socket, streaming both ways."""

    def __init__(self, app: ASGIApp, control_socket: str) -> None:
        self._app = app
        # A connection for each request: a kept one may be closed by control just when the next request is sent on it.
        transport = httpx.AsyncHTTPTransport(uds=control_socket, limits=httpx.Limits(max_keepalive_connections=0))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://control", timeout=None)  # noqa: S113 - control has its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not any(path == p or path.startswith(p + "/") for p in _CONTROL_PREFIXES):
            await self._app(scope, receive, send)
            return
        try:
            await self._pass_on(scope, receive, send)
        except httpx.TransportError as error:
            log.warning("gateway.control_unreachable", reason=type(error).__name__)
            message = "The control process is starting or restarting; retry in a moment. Predictions go on meanwhile."
            await _refuse(Unavailable(message), scope, receive, send)
        except ClientDisconnect:
            log.debug("gateway.client_left", path=path)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        headers = [(k, v) for k, v in scope["headers"] if k.decode("latin-1") not in _HOP_BY_HOP]
        has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        url = httpx.URL(
            "http://control",
            raw_path=scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b""),
        )
        outgoing = self._client.build_request(
            request.method, url, headers=headers, content=request.stream() if has_body else None
        )
        response = await self._client.send(outgoing, stream=True)
        passed = {k: v for k, v in response.headers.multi_items() if k.lower() not in _HOP_BY_HOP}
        try:
            await StreamingResponse(response.aiter_raw(), response.status_code, passed)(scope, receive, send)
        finally:
            await response.aclose()
