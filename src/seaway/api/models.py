"""Routes of models: register versions, look at them, name them by aliases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from seaway.api import uploads, views
from seaway.api.requests import Actor, Body, Cursor, Limit, Name, body_of, described
from seaway.api.uploads import Form
from seaway.config import Settings
from seaway.errors import NotFound
from seaway.packages.manifest import scan
from seaway.registry import Registry, Staging
from seaway.registry.archives import is_archive
from seaway.registry.identity import checked_name
from seaway.serving.inspect import inspect_package
from seaway.types import ModelVersion

_FIELDS = frozenset({"experiment_id", "metrics", "description"})

At = Annotated[datetime | None, Query(description="What it meant at this time (ISO 8601; UTC unless it says).")]


class AliasBody(Body):
    """Which version an alias means from now on."""

    version: int = Field(ge=1)
    reason: str = Field("", max_length=2000)


def _register(
    registry: Registry, settings: Settings, name: str, staging: Staging, form: Form, actor: str
) -> tuple[ModelVersion, bool]:
    """From a received upload to a version. Called in a thread; what is refused leaves nothing behind."""
    if len(form.files) == 1 and is_archive(form.files[0]):
        staging.unpack_archive(form.files[0], limit_bytes=settings.max_upload_bytes, max_files=uploads.MAX_FILES)
    experiment_id = form.fields.get("experiment_id") or None
    metrics = form.json_field("metrics")
    known = registry.model_version_by_digest(name, scan(staging.directory).digest)
    if known is not None:
        # These bytes were opened and tried before; only what is said about them can be new.
        if experiment_id is not None:
            known = registry.link_training(name, known, experiment_id=experiment_id, metrics=metrics, actor=actor)
        return known, False
    if experiment_id is not None:
        registry.get_experiment(experiment_id)
    uploads.refuse_pickles(staging.directory)
    found = inspect_package(
        staging.directory, memory_bytes=settings.inspect_memory_bytes, seconds=settings.inspect_seconds
    )
    return registry.add_model_version(
        name, staging, found, experiment_id=experiment_id, metrics=metrics,
        description=form.fields.get("description", ""), actor=actor,
    )  # fmt: skip


def model_routes(registry: Registry, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/api/models", tags=["models"])

    @router.post("/{name}/versions", summary="Register a model package", status_code=201)
    async def add(request: Request, response: Response, name: Name, actor: Actor) -> dict[str, Any]:
        """Upload the package's files (or one .zip, .tar, .tar.gz) as multipart/form-data.

        The package is opened and tried in a process of its own; 400 says what is wrong and keeps nothing. 201 for a
        new version, 200 when these bytes are known.
        """
        checked_name("model", name)
        with registry.artifacts.stage() as staging:
            form = await uploads.receive(request, staging, fields=_FIELDS, limit_bytes=settings.max_upload_bytes)
            version, new = await run_in_threadpool(_register, registry, settings, name, staging, form, actor)
        response.status_code = 201 if new else 200
        return views.model_version(version)

    @router.get("", summary="Models by name")
    def list_(limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        return views.page(registry.list_models(limit, cursor))

    @router.get("/{name}", summary="A model, its versions and aliases")
    def get(name: Name) -> dict[str, Any]:
        versions = registry.list_model_versions(name)
        return {
            "name": name,
            "aliases": {alias.name: alias.version for alias in registry.list_aliases(name)},
            "versions": [views.model_version(version) for version in versions],
        }

    @router.get("/{name}/versions/{version}", summary="One version, by number or alias")
    def get_version(name: Name, version: str) -> dict[str, Any]:
        return views.model_version(registry.get_model_version(name, version))

    @router.get("/{name}/aliases", summary="The aliases of a model")
    def list_aliases(name: Name) -> dict[str, Any]:
        return views.items(registry.list_aliases(name))

    @router.get("/{name}/aliases/{alias}", summary="What an alias means, or meant")
    def get_alias(name: Name, alias: Name, at: At = None) -> dict[str, Any]:
        when = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
        return {"model": name, "name": alias, "version": registry.resolve_alias(name, alias, when)}

    @router.put("/{name}/aliases/{alias}", summary="Point an alias at a version", openapi_extra=described(AliasBody))
    def set_alias(
        name: Name, alias: Name, actor: Actor, body: Annotated[AliasBody, Depends(body_of(AliasBody))]
    ) -> dict[str, Any]:
        changed: dict[str, Any] = views.plain(
            registry.set_alias(name, alias, body.version, actor=actor, reason=body.reason)
        )
        return changed

    @router.delete("/{name}/aliases/{alias}", summary="Take an alias away; its history stays")
    def delete_alias(name: Name, alias: Name, actor: Actor) -> dict[str, Any]:
        registry.delete_alias(name, alias, actor=actor)
        return {"model": name, "name": alias, "version": None}

    @router.get("/{name}/aliases/{alias}/history", summary="Everything an alias has meant, oldest first")
    def alias_history(name: Name, alias: Name) -> dict[str, Any]:
        return views.items(registry.alias_history(name, alias))

    return router


def resolve_version(registry: Registry, model: str, wanted: int | str | None) -> int:
    """The version number that a number, an alias or None (the newest) means. Raises NotFound."""
    found = registry.get_model_version(model, wanted)
    if isinstance(wanted, int) and found.version != wanted:
        raise NotFound(f"Model {model!r} has no version {wanted}.")
    return found.version
