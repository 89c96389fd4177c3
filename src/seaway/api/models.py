"""Routes of models: register versions, look at them."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from seaway.api import schemas, uploads, views
from seaway.api.intake import Intake
from seaway.api.pickles import refuse_pickles
from seaway.api.requests import Actor, Cursor, Limit, Name, NameOrNumber, upload_described
from seaway.api.uploads import Form
from seaway.config import Settings
from seaway.errors import InvalidRequest
from seaway.packages import refuse_misnamed, scan
from seaway.registry import Registry, Staging
from seaway.registry.archives import is_archive
from seaway.serving.inspect import inspect_package
from seaway.types import Json, ModelVersion

_FIELDS = {
    "experiment_id": "The experiment that gave this version.",
    "metrics": "JSON object: how well it did in that experiment.",
    "description": "What the model is; kept when the model is new.",
}


def _register(
    registry: Registry, settings: Settings, name: str, staging: Staging, form: Form, actor: str
) -> tuple[ModelVersion, bool]:
    """From a received upload to a version. Called in a thread; what is refused leaves nothing behind."""
    experiment_id = form.fields.get("experiment_id") or None
    metrics = form.json_field("metrics")
    if experiment_id is not None:
        registry.get_experiment(experiment_id)
    elif metrics:
        raise InvalidRequest("metrics belong to an experiment: send experiment_id too.")
    if len(form.files) == 1 and is_archive(form.files[0]):
        staging.unpack_archive(form.files[0], limit_bytes=settings.max_upload_bytes, max_files=uploads.MAX_FILES)
    known = registry.model_version_by_digest(name, scan(staging.directory).digest)
    if known is not None:
        # These bytes were opened and tried before; only what is said about them can be new.
        if experiment_id is not None:
            known = registry.link_training(name, known, experiment_id=experiment_id, metrics=metrics, actor=actor)
        return known, False
    refuse_misnamed(staging.directory)
    refuse_pickles(staging.directory)
    found = inspect_package(
        staging.directory, memory_bytes=settings.inspect_memory_bytes, seconds=settings.inspect_seconds
    )
    return registry.add_model_version(
        name, staging, found, experiment_id=experiment_id, metrics=metrics,
        description=form.fields.get("description", ""), actor=actor,
    )  # fmt: skip


def model_routes(registry: Registry, intake: Intake, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/api/models", tags=["models"])

    @router.post(
        "/{name}/versions",
        summary="Register a model package",
        status_code=201,
        response_model=schemas.ModelVersion,
        responses={200: {"model": schemas.ModelVersion, "description": "These bytes are this version already."}},
        openapi_extra=upload_described(_FIELDS),
    )
    async def add(request: Request, response: Response, name: Name, actor: Actor) -> Json:
        """Upload the package's files (or one .zip, .tar, .tar.gz) as multipart/form-data.

        The package is opened and tried in a process of its own; 400 says what is wrong and keeps nothing. 201 for a
        new version, 200 when these bytes are known.
        """
        async with intake.receive(request, frozenset(_FIELDS)) as (staging, form):
            version, new = await intake.register(partial(_register, registry, settings, name, staging, form, actor))
        response.status_code = 201 if new else 200
        return views.model_version(version)

    @router.get("", summary="Models by name", response_model=schemas.Listed[schemas.ModelSummary])
    def list_(limit: Limit = 100, cursor: Cursor = None) -> Json:
        return views.page(registry.list_models(limit, cursor))

    @router.get("/{name}", summary="A model, its versions and aliases", response_model=schemas.Model)
    def get(name: Name) -> dict[str, Any]:
        versions = registry.list_model_versions(name)
        return {
            "name": name,
            "aliases": {alias.name: alias.version for alias in registry.list_aliases(name)},
            "versions": [views.model_version(version) for version in versions],
        }

    @router.get(
        "/{name}/versions/{version}",
        summary="One version, by number or alias",
        response_model=schemas.ModelVersion,
    )
    def get_version(name: Name, version: NameOrNumber) -> Json:
        return views.model_version(registry.get_model_version(name, version))

    return router
