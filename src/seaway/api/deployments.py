"""Routes of deployments: desired state, its history, and where a prediction came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from seaway.api import schemas, views
from seaway.api.requests import (
    Actor,
    Body,
    Name,
    Operations,
    Reason,
    Text,
    Wait,
    WantedVersion,
    body_of,
    described,
)
from seaway.config import DEVICE
from seaway.errors import InvalidRequest, Unavailable
from seaway.registry import Registry
from seaway.serving import ids
from seaway.types import DeploymentRevision, Json, ServingSettings


class DeployBody(Body):
    """What to serve, and how; what is not given is as the package or the server says."""

    version: WantedVersion = None
    engines: int | None = Field(None, ge=1, le=1024, description="Engine threads, one core each.")
    processes: int | None = Field(None, ge=1, le=256, description="Processes that share the engines out.")
    max_queue_size: int | None = Field(None, ge=1, le=1_000_000, description="Requests that may wait in one process.")
    timeout_seconds: float | None = Field(None, gt=0, le=3600, description="A request's deadline when it brings none.")
    placement: Literal["auto", "inline", "worker"] | None = Field(
        None, description="Where it runs: in the gateways (inline), in workers, or as calibration finds it best (auto)."
    )
    joint_runs: Literal["auto", "never"] | None = Field(
        None, description="Of the lane cpu: whether requests that wait share runs where that pays (auto) or never do."
    )
    lane: Literal["auto", "cpu", "batch"] | None = Field(
        None, description="An engine on each core (cpu), many samples together (batch), or batch on a GPU (auto)."
    )
    device: str | None = Field(None, pattern=DEVICE, description="Of the batch lane: auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = Field(
        None, description="What the batch lane computes in; auto: fp32 on a CPU, bf16 or fp16 on a GPU."
    )
    max_batch_rows: int | None = Field(None, ge=1, le=65_536, description="Samples of one batch.")
    max_batch_tokens: int | None = Field(
        None, ge=1, le=100_000_000, description="Samples of a batch times its longest length, padding counted."
    )
    preferred_batch_rows: list[Annotated[int, Field(ge=1, le=65_536)]] | None = Field(
        None, min_length=1, max_length=16, description="Sizes that a batch leaves with rather than with more samples."
    )
    max_queue_delay_seconds: float | None = Field(
        None, ge=0, le=60, description="How long a free device waits for company; default 0."
    )
    latency_target_seconds: float | None = Field(
        None, gt=0, le=3600, description="Batches are kept so small that they take half of it."
    )
    length_bucketing: bool | None = Field(None, description="Whether texts of like length ride together; default true.")
    reason: Text = ""

    def settings(self) -> ServingSettings:
        asked = self.model_dump(exclude={"version", "reason", "preferred_batch_rows"})
        sizes = self.preferred_batch_rows
        return ServingSettings(**asked, preferred_batch_rows=None if sizes is None else tuple(sizes))


class RollbackBody(Body):
    """Why."""

    reason: Text = ""


_OF_BATCHES = (
    "device", "dtype", "max_batch_rows", "max_batch_tokens", "preferred_batch_rows", "max_queue_delay_seconds",
    "latency_target_seconds", "length_bucketing",
)  # fmt: skip


def _check(settings: ServingSettings, lane: str) -> None:
    """Raises InvalidRequest for settings of which one would silently do nothing in the lane that it comes to."""
    batches = [name for name in _OF_BATCHES if getattr(settings, name) not in {None, "auto", "cpu", "fp32"}]
    if lane == "cpu" and batches:
        named = ", ".join(batches)
        here = "The lane cpu" if settings.lane == "cpu" else "It would be served by the lane cpu here, which"
        raise InvalidRequest(f"{here} makes no such batches; leave out {named}, or take the lane batch.")
    preferred, most = settings.preferred_batch_rows or (), settings.max_batch_rows
    if most is not None and any(size > most for size in preferred):
        raise InvalidRequest(f"preferred_batch_rows has {max(preferred)}, and max_batch_rows is {most}.")
    engines = [name for name in ("engines", "processes") if getattr(settings, name) is not None]
    if lane == "batch" and engines:
        raise InvalidRequest(f"The lane batch has one engine in one process; leave out {' and '.join(engines)}.")
    if lane == "batch" and settings.joint_runs == "never":
        raise InvalidRequest("The lane batch is for running samples together; leave out joint_runs, or take lane cpu.")
    if lane == "batch" and settings.placement == "inline":
        raise InvalidRequest("The lane batch runs in a worker; leave out the placement inline, or take lane cpu.")


def _check_served(revision: DeploymentRevision, operations: Operations) -> None:
    """Raises Unavailable for what was ready once, and so isn't loaded anew, and can't be served now."""
    live = operations.live()["models"].get(revision.model) if revision.state == "ready" else None
    if live is not None and live["state"] == "UNAVAILABLE":
        what = f"Version {revision.arms[0].version} of {revision.model}"
        raise Unavailable(f"{what} is deployed already, and can't be served now: {live['reason']}")


def deployment_routes(registry: Registry, operations: Operations) -> APIRouter:
    router = APIRouter(prefix="/api/deployments", tags=["deployments"])

    async def settle(revision: DeploymentRevision, wait: float) -> Json:
        operations.wake()
        if wait > 0:
            revision = await operations.settled(revision.id, wait)
        _check_served(revision, operations)
        return views.changed_revision(revision)

    @router.put(
        "/{model}",
        summary="Deploy a version",
        response_model=schemas.ChangedRevision,
        openapi_extra=described(DeployBody),
    )
    async def deploy(
        model: Name, actor: Actor, body: Annotated[DeployBody, Depends(body_of(DeployBody))], wait: Wait = 0.0
    ) -> Json:
        """Writes one row of desired state and answers; `wait` answers when the version is ready or has failed.

        What is deployed already in the same way is not deployed twice.
        """
        settings = body.settings()

        def change() -> DeploymentRevision:
            version = registry.get_model_version(model, body.version)
            _check(settings, operations.lane_of(version, settings))
            return registry.deploy(model, version.version, settings=settings, actor=actor, reason=body.reason)

        return await settle(await run_in_threadpool(change), wait)

    @router.delete("/{model}", summary="Stop serving a model", response_model=schemas.ChangedRevision)
    async def undeploy(model: Name, actor: Actor, reason: Reason = "", wait: Wait = 0.0) -> Json:
        revision = await run_in_threadpool(registry.undeploy, model, actor=actor, reason=reason)
        return await settle(revision, wait)

    @router.post(
        "/{model}/rollback",
        summary="Back to what was ready before",
        response_model=schemas.ChangedRevision,
        openapi_extra=described(RollbackBody),
    )
    async def rollback(
        model: Name, actor: Actor, body: Annotated[RollbackBody, Depends(body_of(RollbackBody))], wait: Wait = 0.0
    ) -> Json:
        revision = await run_in_threadpool(registry.rollback, model, actor=actor, reason=body.reason)
        return await settle(revision, wait)

    @router.get("", summary="The newest revision of each model", response_model=schemas.Listed[schemas.Revision])
    def list_() -> Json:
        return views.items(registry.desired())

    @router.get("/{model}", summary="A model's deployment and what runs of it", response_model=schemas.Deployment)
    async def get(model: Name) -> Json:
        revision = await run_in_threadpool(registry.get_deployment, model)
        return views.revision(revision) | {"live": operations.live()["models"].get(model)}

    @router.get(
        "/{model}/history", summary="Every revision, oldest first", response_model=schemas.Listed[schemas.Revision]
    )
    def history(model: Name) -> Json:
        return views.items(registry.deployment_history(model))

    return router


def prediction_routes(registry: Registry) -> APIRouter:
    router = APIRouter(prefix="/api/predictions", tags=["evidence"])

    @router.get("/{prediction_id}", summary="Where an answer came from", response_model=schemas.Lineage)
    def lineage(prediction_id: str) -> dict[str, Any]:
        """From a prediction's id to the deployment, the artifact's bytes, the experiment and the dataset's bytes.

        The id says which deployment answered and when. Ids are not signed: one is no proof that a prediction happened.
        """
        parts = ids.decode(prediction_id)
        try:
            at = datetime.fromtimestamp(parts.time_ms / 1000, UTC)
        except (ValueError, OverflowError) as error:
            raise InvalidRequest("This is no prediction id: its time is after the year 9999.") from error
        found = registry.lineage(parts.revision, parts.arm)
        return {"prediction_id": prediction_id.upper(), "at": at.isoformat(), "gateway": parts.gateway} | found

    return router
