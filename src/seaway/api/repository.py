"""Triton's model repository extension: index, load, unload, in the words of deployments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from seaway.api import schemas
from seaway.api.requests import Actor, Body, Name, Operations, WantedVersion, body_of, described
from seaway.errors import InvalidRequest, NotSupported, Unavailable
from seaway.registry import Registry
from seaway.types import DeploymentRevision, Json

_LOAD_SECONDS = 300.0
_PAGE = 1000


class IndexBody(Body, extra="ignore"):
    """Only what is ready, or everything. As everywhere in the protocol, other keys are without effect."""

    ready: bool = False


class LoadParameters(Body, extra="allow"):
    """Triton's; those of its own make (`config`, `file:...`) are refused one by one."""

    version: WantedVersion = None


class LoadBody(Body, extra="ignore"):
    """`version` among the parameters names a version or an alias; without it, the newest is loaded."""

    parameters: LoadParameters = Field(default_factory=LoadParameters)


class UnloadParameters(Body, extra="ignore"):
    """Triton's."""

    unload_dependents: bool = False


class UnloadBody(Body, extra="ignore"):
    """Nothing needs to be said."""

    parameters: UnloadParameters = Field(default_factory=UnloadParameters)


def repository_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(prefix="/v2/repository", tags=["model repository"])

    @router.post(
        "/index",
        summary="Models and their states",
        response_model=list[schemas.IndexEntry],
        openapi_extra=described(IndexBody),
    )
    async def index(body: Annotated[IndexBody, Depends(body_of(IndexBody))]) -> list[Json]:
        live = operations.live()["models"]
        entries = await run_in_threadpool(_entries, registry, live)
        return [entry for entry in entries if not body.ready or entry["state"] == "READY"]

    @router.post(
        "/models/{model}/load",
        summary="Deploy the newest version, or the named one",
        response_model=schemas.Nothing,
        openapi_extra=described(LoadBody),
    )
    async def load(model: Name, actor: Actor, body: Annotated[LoadBody, Depends(body_of(LoadBody))]) -> dict[str, Any]:
        """Answers when it is ready; 503 says why it is not."""
        _refuse_contents(body.parameters.model_extra or {})

        def change() -> DeploymentRevision:
            version = registry.get_model_version(model, body.parameters.version).version
            return registry.deploy(model, version, actor=actor, reason="loaded through the model repository protocol")

        revision = await run_in_threadpool(change)
        operations.wake()
        settled = await operations.settled(revision.id, _LOAD_SECONDS)
        if settled.state != "ready":
            why = settled.state_reason.rstrip(".") or f"it is {settled.state} after {_LOAD_SECONDS:g} s"
            raise Unavailable(f"Version {settled.arms[0].version} of {model!r} did not get ready: {why}.")
        return {}

    @router.post(
        "/models/{model}/unload",
        summary="Undeploy",
        response_model=schemas.Nothing,
        openapi_extra=described(UnloadBody),
    )
    async def unload(
        model: Name, actor: Actor, body: Annotated[UnloadBody, Depends(body_of(UnloadBody))]
    ) -> dict[str, Any]:
        if body.parameters.unload_dependents:
            raise NotSupported("unload_dependents has no meaning here: models do not depend on each other.")
        reason = "unloaded through the model repository protocol"
        revision = await run_in_threadpool(registry.undeploy, model, actor=actor, reason=reason)
        operations.wake()
        await operations.settled(revision.id, _LOAD_SECONDS)
        return {}

    return router


def _entries(registry: Registry, live: Json) -> list[Json]:
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = registry.list_models(_PAGE, cursor)
        names += [item["name"] for item in page.items if item["newest"]]
        cursor = page.next_cursor
        if cursor is None:
            return [_entry(registry, name, live.get(name)) for name in names]


def _entry(registry: Registry, name: str, live: Json | None) -> Json:
    if live is None or live["state"] == "UNDEPLOYED":
        version, state, reason = registry.get_model_version(name).version, "UNAVAILABLE", "not deployed"
    else:
        arms = registry.get_deployment(name).arms
        version = live["version"] or (arms[0].version if arms else registry.get_model_version(name).version)
        state, reason = live["state"], "" if live["state"] == "READY" else live["reason"]
    return {"name": name, "version": str(version), "state": state, "reason": reason}


def _refuse_contents(others: Json) -> None:
    for key in others:
        if key == "config" or key.startswith("file:"):
            raise InvalidRequest(
                f"parameters.{key[:40]}: a model isn't sent with load; register it with "
                "POST /api/models/{name}/versions first."
            )
        raise InvalidRequest(f"parameters.{key[:40]} is not known here; load takes version.")
