"""Routes of aliases: names for versions, and everything such a name has meant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from seaway.api import schemas, views
from seaway.api.requests import Actor, Body, Name, Number, Text, body_of, described
from seaway.errors import InvalidRequest
from seaway.registry import Registry
from seaway.types import Json

At = Annotated[datetime | None, Query(description="What it meant at this time (ISO 8601; UTC unless it says).")]


class AliasBody(Body):
    """Which version an alias means from now on."""

    version: Number
    reason: Text = ""


def _utc(at: datetime | None) -> datetime | None:
    try:
        return at if at is None else at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except OverflowError as error:
        raise InvalidRequest('"at": expected a time between the years 1 and 9999 in UTC.') from error


def alias_routes(registry: Registry) -> APIRouter:
    router = APIRouter(prefix="/api/models/{name}/aliases", tags=["models"])

    @router.get("", summary="The aliases of a model", response_model=schemas.Listed[schemas.Alias])
    def list_(name: Name) -> Json:
        return views.items(registry.list_aliases(name))

    @router.get("/{alias}", summary="What an alias means, or meant", response_model=schemas.ResolvedAlias)
    def get(name: Name, alias: Name, at: At = None) -> dict[str, Any]:
        return {"model": name, "name": alias, "version": registry.resolve_alias(name, alias, _utc(at))}

    @router.put(
        "/{alias}",
        summary="Point an alias at a version",
        response_model=schemas.Alias,
        openapi_extra=described(AliasBody),
    )
    def set_(name: Name, alias: Name, actor: Actor, body: Annotated[AliasBody, Depends(body_of(AliasBody))]) -> Json:
        changed = registry.set_alias(name, alias, body.version, actor=actor, reason=body.reason)
        return views.plain(changed)

    @router.delete("/{alias}", summary="Take an alias away; its history stays", response_model=schemas.ResolvedAlias)
    def delete(name: Name, alias: Name, actor: Actor) -> dict[str, Any]:
        registry.delete_alias(name, alias, actor=actor)
        return {"model": name, "name": alias, "version": None}

    @router.get(
        "/{alias}/history",
        summary="Everything an alias has meant, oldest first",
        response_model=schemas.Listed[schemas.AliasEvent],
    )
    def history(name: Name, alias: Name) -> Json:
        return views.items(registry.alias_history(name, alias))

    return router
