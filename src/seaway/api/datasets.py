"""Routes of datasets: upload a version, look at versions."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from seaway.api import schemas, views
from seaway.api.intake import Intake
from seaway.api.requests import Actor, Cursor, Limit, Name, PathNumber, upload_described
from seaway.registry import Registry
from seaway.types import Json

_FIELDS = {"description": "What it is.", "source": "JSON object: where the bytes came from, say a query and its time."}


def dataset_routes(registry: Registry, intake: Intake) -> APIRouter:
    router = APIRouter(prefix="/api/datasets", tags=["datasets"])

    @router.post(
        "/{name}/versions",
        summary="Register the exact bytes of a dataset",
        status_code=201,
        response_model=schemas.DatasetVersion,
        responses={200: {"model": schemas.DatasetVersion, "description": "These bytes are this version already."}},
        openapi_extra=upload_described(_FIELDS),
    )
    async def add(request: Request, response: Response, name: Name, actor: Actor) -> Json:
        """Upload one or more files as multipart/form-data; 201 for a new version, 200 when these bytes are known."""
        async with intake.receive(request, frozenset(_FIELDS)) as (staging, form):
            add_version = partial(
                registry.add_dataset_version, name, staging,
                description=form.fields.get("description", ""), source=form.json_field("source"), actor=actor,
            )  # fmt: skip
            version, new = await intake.register(add_version)
        response.status_code = 201 if new else 200
        return views.dataset_version(version)

    @router.get("", summary="Datasets by name", response_model=schemas.Listed[schemas.DatasetSummary])
    def list_(limit: Limit = 100, cursor: Cursor = None) -> Json:
        return views.page(registry.list_datasets(limit, cursor))

    @router.get("/{name}", summary="A dataset and its versions", response_model=schemas.Dataset)
    def get(name: Name) -> dict[str, Any]:
        versions = registry.list_dataset_versions(name)
        return {"name": name, "versions": [views.dataset_version(version) for version in versions]}

    @router.get(
        "/{name}/versions/{version}",
        summary="One version, with its files and digests",
        response_model=schemas.DatasetVersion,
    )
    def get_version(name: Name, version: PathNumber) -> Json:
        return views.dataset_version(registry.get_dataset_version(name, version))

    return router
