"""Routes about the running server: status, logs, audit, metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from seaway import __version__
from seaway.api import schemas, views
from seaway.api.requests import Limit, OnlyModel, Operations
from seaway.errors import InvalidRequest
from seaway.registry import Registry
from seaway.telemetry.metrics import CONTENT_TYPE
from seaway.types import Json

Lines = Annotated[int, Query(ge=1, le=10_000, description="How many at most.")]
AuditCursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
_CURSOR_DIGITS = 18


def operation_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/api/status", summary="What runs now: models, workers, gateways", response_model=schemas.Status)
    async def status() -> Json:
        return {"version": __version__} | operations.live()

    @router.get("/api/logs", summary="The newest log lines, oldest first", response_model=schemas.Logs)
    def logs(model: OnlyModel = None, lines: Lines = 100) -> Json:
        return {"lines": operations.logs(model=model, lines=lines)}

    @router.get(
        "/api/audit", summary="Who changed what, newest first", response_model=schemas.Listed[schemas.AuditEntry]
    )
    def audit(limit: Limit = 100, cursor: AuditCursor = None) -> Json:
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _CURSOR_DIGITS):
            raise InvalidRequest('"cursor": expected `next_cursor` of the page before.')
        return views.page(registry.audit(limit, cursor))

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        return Response(operations.render_metrics(), media_type=CONTENT_TYPE)

    return router
