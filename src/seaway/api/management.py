"""Control's application: everything about models that is not a prediction."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI

from seaway import __version__
from seaway.api import schemas
from seaway.api.aliases import alias_routes
from seaway.api.datasets import dataset_routes
from seaway.api.deployments import deployment_routes, prediction_routes
from seaway.api.errors import install_error_handlers
from seaway.api.experiments import experiment_routes
from seaway.api.gateway import dataplane_openapi
from seaway.api.intake import Intake
from seaway.api.models import model_routes
from seaway.api.operations import operation_routes
from seaway.api.profiles import profile_routes
from seaway.api.repository import repository_routes
from seaway.api.requests import Operations
from seaway.config import Settings
from seaway.registry import Registry
from seaway.types import Json

_DESCRIPTION = 'Registry, deployments and predictions. Every error is `{"error": "what is wrong and what to do"}`.'


def management_app(registry: Registry, operations: Operations, settings: Settings) -> FastAPI:
    """The application; its /docs and /openapi.json describe the gateways' routes too."""
    app = FastAPI(title="Seaway", version=__version__, description=_DESCRIPTION, redoc_url=None)
    app.router.redirect_slashes = False
    install_error_handlers(app)
    intake = Intake(registry, settings)
    for router in (
        model_routes(registry, intake, settings), profile_routes(registry, settings, operations),
        alias_routes(registry), dataset_routes(registry, intake),
        experiment_routes(registry), deployment_routes(registry, operations), prediction_routes(registry),
        repository_routes(registry, operations), operation_routes(registry, operations),
    ):  # fmt: skip
        app.include_router(router)
    own = app.openapi

    @cache
    def whole() -> Json:
        return _merged(own(), dataplane_openapi())

    app.openapi = whole  # type: ignore[method-assign]
    return app


def _merged(own: Json, others: Json) -> Json:
    """One description of both applications, with errors as they are and not as the framework has them by default."""
    found: Json = {}
    for described in (others, own):
        found |= described.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        found.pop(name, None)
    found["Error"] = schemas.Error.model_json_schema()
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    paths = others["paths"] | own["paths"]
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "What went wrong.", "content": error}
    return {**own, "paths": paths, "components": {"schemas": found}}
