"""Routes of deployments: desired state, its history, and where a prediction came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from seaway.api import views
from seaway.api.models import resolve_version
from seaway.api.requests import Actor, Body, Name, Operations, Wait, body_of, described
from seaway.registry import Registry
from seaway.serving import ids
from seaway.types import DeploymentRevision, ServingSettings


class DeployBody(Body):
    """What to serve, and how; what is not given is as the package or the server says."""

    version: int | str | None = Field(None, description="A number, an alias, or nothing for the newest.")
    engines: int | None = Field(None, ge=1, le=1024)
    processes: int | None = Field(None, ge=1, le=256)
    max_queue_size: int | None = Field(None, ge=1, le=1_000_000)
    timeout_seconds: float | None = Field(None, gt=0, le=3600)
    reason: str = Field("", max_length=2000)


class RollbackBody(Body):
    """Why."""

    reason: str = Field("", max_length=2000)


def deployment_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(tags=["deployments"])

    async def settle(revision: DeploymentRevision, wait: float, message: str) -> dict[str, Any]:
        operations.wake()
        if wait > 0:
            revision = await operations.settled(revision.id, wait)
        return views.revision(revision, message)

    @router.put("/api/deployments/{model}", summary="Deploy a version", openapi_extra=described(DeployBody))
    async def deploy(
        model: Name, actor: Actor, body: Annotated[DeployBody, Depends(body_of(DeployBody))], wait: Wait = 0.0
    ) -> dict[str, Any]:
        """Writes one row of desired state and answers; `wait` answers when the version is ready or has failed."""
        version = await run_in_threadpool(resolve_version, registry, model, body.version)
        settings = ServingSettings(**body.model_dump(exclude={"version", "reason"}))
        revision = await run_in_threadpool(
            registry.deploy, model, version, settings=settings, actor=actor, reason=body.reason
        )
        message = (
            f"Version {version} is loaded and warmed up; once it is ready, requests go to it "
            "and what served before finishes its requests and stops."
        )
        return await settle(revision, wait, message)

    @router.delete("/api/deployments/{model}", summary="Stop serving a model")
    async def undeploy(
        model: Name, actor: Actor, reason: Annotated[str, Query(max_length=2000)] = "", wait: Wait = 0.0
    ) -> dict[str, Any]:
        revision = await run_in_threadpool(registry.undeploy, model, actor=actor, reason=reason)
        return await settle(revision, wait, "Gateways stop routing to it; its workers finish their requests and stop.")

    @router.post(
        "/api/deployments/{model}/rollback",
        summary="Back to what was ready before",
        openapi_extra=described(RollbackBody),
    )
    async def rollback(
        model: Name, actor: Actor, body: Annotated[RollbackBody, Depends(body_of(RollbackBody))], wait: Wait = 0.0
    ) -> dict[str, Any]:
        revision = await run_in_threadpool(registry.rollback, model, actor=actor, reason=body.reason)
        return await settle(revision, wait, f"Version {revision.arms[0].version} takes over once it is ready.")

    @router.get("/api/deployments", summary="The newest revision of each model")
    def list_() -> dict[str, Any]:
        return views.items(registry.desired())

    @router.get("/api/deployments/{model}", summary="A model's deployment and what runs of it")
    def get(model: Name) -> dict[str, Any]:
        live = operations.live()["models"].get(model)
        return views.revision(registry.get_deployment(model)) | {"live": live}

    @router.get("/api/deployments/{model}/history", summary="Every revision, oldest first")
    def history(model: Name) -> dict[str, Any]:
        return views.items(registry.deployment_history(model))

    @router.get("/api/predictions/{prediction_id}", summary="Where an answer came from", tags=["evidence"])
    def lineage(prediction_id: str) -> dict[str, Any]:
        """From a prediction's id to the deployment, the artifact's bytes, the experiment and the dataset's bytes."""
        parts = ids.decode(prediction_id)
        at = datetime.fromtimestamp(parts.time_ms / 1000, UTC)
        found = registry.lineage(parts.revision, parts.arm)
        return {"prediction_id": prediction_id, "at": at.isoformat(), "gateway": parts.gateway} | found

    return router
