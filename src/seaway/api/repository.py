"""Triton's model repository extension: index, load, unload, in the words of deployments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from seaway.api.models import resolve_version
from seaway.api.requests import Actor, Body, Name, Operations, body_of
from seaway.errors import InvalidRequest, NotSupported, Unavailable
from seaway.registry import Registry
from seaway.types import DeploymentRevision, Json

_LOAD_SECONDS = 300.0
_PAGE = 1000


class IndexBody(Body):
    """Only what is ready, or everything."""

    ready: bool = False


class LoadBody(Body):
    """Triton's parameters; `version` names a version or an alias, the newest without it."""

    parameters: dict[str, Any] = Field(default_factory=dict)


def repository_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(prefix="/v2/repository", tags=["model repository"])

    @router.post("/index", summary="Models and their states")
    def index(body: Annotated[IndexBody, Depends(body_of(IndexBody))]) -> list[Json]:
        live = operations.live()["models"]
        names: list[str] = []
        cursor: str | None = None
        while True:
            page = registry.list_models(_PAGE, cursor)
            names += [item["name"] for item in page.items if item["newest"]]
            cursor = page.next_cursor
            if cursor is None:
                break
        entries = [_entry(registry, name, live.get(name)) for name in names]
        return [entry for entry in entries if not body.ready or entry["state"] == "READY"]

    @router.post("/models/{model}/load", summary="Deploy the newest version, or the named one")
    async def load(model: Name, actor: Actor, body: Annotated[LoadBody, Depends(body_of(LoadBody))]) -> Json:
        wanted = _wanted(body.parameters)
        version = await run_in_threadpool(resolve_version, registry, model, wanted)
        reason = "loaded through the model repository protocol"
        revision = await run_in_threadpool(registry.deploy, model, version, actor=actor, reason=reason)
        operations.wake()
        settled: DeploymentRevision = await operations.settled(revision.id, _LOAD_SECONDS)
        if settled.state != "ready":
            raise Unavailable(
                f"Version {version} of {model!r} is {settled.state}: {settled.state_reason or 'not ready in time'}"
            )
        return {}

    @router.post("/models/{model}/unload", summary="Undeploy")
    async def unload(model: Name, actor: Actor, body: Annotated[LoadBody, Depends(body_of(LoadBody))]) -> Json:
        if body.parameters.get("unload_dependents") not in {None, False}:
            raise NotSupported("unload_dependents has no meaning here: models do not depend on each other.")
        reason = "unloaded through the model repository protocol"
        revision = await run_in_threadpool(registry.undeploy, model, actor=actor, reason=reason)
        operations.wake()
        await operations.settled(revision.id, _LOAD_SECONDS)
        return {}

    return router


def _entry(registry: Registry, name: str, live: Json | None) -> Json:
    if live is None or live["state"] == "UNDEPLOYED":
        return {
            "name": name,
            "version": str(registry.get_model_version(name).version),
            "state": "UNAVAILABLE",
            "reason": "not deployed",
        }
    version = live["version"] or registry.get_deployment(name).arms[0].version
    reason = "" if live["state"] == "READY" else live["reason"]
    return {"name": name, "version": str(version), "state": live["state"], "reason": reason}


def _wanted(parameters: Json) -> int | str | None:
    for key in parameters:
        if key == "config" or key.startswith("file:"):
            raise InvalidRequest(
                f"parameters.{key[:40]}: a model isn't sent with load; register it with "
                "POST /api/models/{name}/versions first."
            )
        if key != "version":
            raise InvalidRequest(f"parameters.{key[:40]} is not known here; load takes version.")
    wanted = parameters.get("version")
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int | str)):
        raise InvalidRequest("parameters.version: expected a version number or an alias.")
    return int(wanted) if isinstance(wanted, str) and wanted.isdigit() else wanted
