"""Routes about the running server: status, logs, audit, metrics."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from seaway import __version__
from seaway.api import views
from seaway.api.requests import Cursor, Limit, Operations
from seaway.errors import InvalidRequest
from seaway.registry import Registry
from seaway.telemetry.metrics import CONTENT_TYPE


def operation_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/api/status", summary="What runs now: models, workers, gateways")
    def status() -> dict[str, Any]:
        return {"version": __version__} | operations.live()

    @router.get("/api/logs", summary="The newest log lines, oldest first")
    def logs(model: str | None = None, lines: Annotated[int, Query(ge=1, le=10_000)] = 100) -> dict[str, Any]:
        return {"lines": operations.logs(model=model, lines=lines)}

    @router.get("/api/audit", summary="Who changed what, newest first")
    def audit(limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise InvalidRequest("cursor: expected `next_cursor` of the page before.")
        return views.page(registry.audit(limit, cursor))

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        return Response(operations.render_metrics(), media_type=CONTENT_TYPE)

    return router
