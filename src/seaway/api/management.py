"""Control's application: everything about models that is not a prediction."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI

from seaway import __version__
from seaway.api.datasets import dataset_routes
from seaway.api.deployments import deployment_routes
from seaway.api.errors import install_error_handlers
from seaway.api.experiments import experiment_routes
from seaway.api.gateway import dataplane_openapi
from seaway.api.models import model_routes
from seaway.api.operations import operation_routes
from seaway.api.repository import repository_routes
from seaway.api.requests import Operations
from seaway.config import Settings
from seaway.registry import Registry

_DESCRIPTION = 'Registry, deployments and predictions. Every error is `{"error": "what is wrong and what to do"}`.'


def management_app(registry: Registry, operations: Operations, settings: Settings) -> FastAPI:
    """The application; its /docs and /openapi.json describe the gateways' routes too."""
    app = FastAPI(title="Seaway", version=__version__, description=_DESCRIPTION, redoc_url=None)
    app.router.redirect_slashes = False
    install_error_handlers(app)
    for router in (
        model_routes(registry, settings), dataset_routes(registry, settings), experiment_routes(registry),
        deployment_routes(registry, operations), repository_routes(registry, operations),
        operation_routes(registry, operations),
    ):  # fmt: skip
        app.include_router(router)
    own = app.openapi

    @cache
    def whole() -> dict[str, Any]:
        described = dict(own())
        others = dataplane_openapi()
        described["paths"] = others["paths"] | described["paths"]
        schemas = {
            **others.get("components", {}).get("schemas", {}),
            **described.get("components", {}).get("schemas", {}),
        }
        described["components"] = {"schemas": schemas}
        return described

    app.openapi = whole  # type: ignore[method-assign]
    return app
