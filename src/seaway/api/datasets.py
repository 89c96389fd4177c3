"""Routes of datasets: upload a version, look at versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from seaway.api import uploads, views
from seaway.api.requests import Actor, Cursor, Limit, Name
from seaway.config import Settings
from seaway.registry import Registry
from seaway.registry.identity import checked_name

_FIELDS = frozenset({"description", "source"})


def dataset_routes(registry: Registry, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/api/datasets", tags=["datasets"])

    @router.post("/{name}/versions", summary="Register the exact bytes of a dataset", status_code=201)
    async def add(request: Request, response: Response, name: Name, actor: Actor) -> dict[str, Any]:
        """Upload one or more files as multipart/form-data; 201 for a new version, 200 when these bytes are known."""
        checked_name("dataset", name)
        with registry.artifacts.stage() as staging:
            form = await uploads.receive(request, staging, fields=_FIELDS, limit_bytes=settings.max_upload_bytes)
            version, new = await run_in_threadpool(
                registry.add_dataset_version, name, staging,
                description=form.fields.get("description", ""), source=form.json_field("source"), actor=actor,
            )  # fmt: skip
        response.status_code = 201 if new else 200
        return views.dataset_version(version)

    @router.get("", summary="Datasets by name")
    def list_(limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        return views.page(registry.list_datasets(limit, cursor))

    @router.get("/{name}", summary="A dataset and its versions")
    def get(name: Name) -> dict[str, Any]:
        versions = registry.list_dataset_versions(name)
        return {"name": name, "versions": [views.dataset_version(version) for version in versions]}

    @router.get("/{name}/versions/{version}", summary="One version, with its files and digests")
    def get_version(name: Name, version: int) -> dict[str, Any]:
        return views.dataset_version(registry.get_dataset_version(name, version))

    return router
