"""The gateway's application: FastAPI with the inference routes, wrapped in what every request passes first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from seaway import __version__
from seaway.api.edge import ControlProxy, HeadLimits, KeyCheck
from seaway.api.errors import install_error_handlers
from seaway.api.infer import InferenceEdge, inference_routes
from seaway.api.protocol import protocol_routes
from seaway.config import Settings
from seaway.serving.plane import DataPlane
from seaway.telemetry.page import MetricsPage, read_page
from seaway.telemetry.statistics import model_stats
from seaway.types import ServedVersion


def gateway_app(plane: DataPlane, *, settings: Settings, pages: Callable[[], list[Path]]) -> FastAPI:
    """The routes that a gateway answers itself. `pages` lists the metrics pages of all gateways."""
    # Control serves /docs and /openapi.json, for both applications in one.
    app = FastAPI(title="Seaway", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.router.redirect_slashes = False
    install_error_handlers(app)

    def statistics(served: list[ServedVersion]) -> dict[str, Any]:
        snapshots = [snapshot for page in pages() for snapshot in read_page(page)]
        return model_stats(snapshots, served=[(arm.model, arm.version) for arm in served])

    app.include_router(inference_routes(InferenceEdge(plane, settings)))
    app.include_router(protocol_routes(plane, statistics))
    return app


def edge_app(app: FastAPI, *, settings: Settings, control_socket: Path) -> ASGIApp:
    """`app` behind the head limits, the key check and the way to control."""
    inner: ASGIApp = ControlProxy(app, str(control_socket))
    if settings.api_key is not None:
        inner = KeyCheck(inner, settings.api_key.get_secret_value())
    return HeadLimits(inner)


def dataplane_openapi() -> dict[str, Any]:
    """The OpenAPI description of the gateway's routes, for control's /openapi.json."""
    with tempfile.TemporaryDirectory() as scratch:
        page = MetricsPage(Path(scratch) / "unused.page", capacity=2)
        plane = DataPlane(index=0, page=page, random=lambda: 0.0)
        described = gateway_app(plane, settings=Settings(), pages=list).openapi()
        page.close()
    return described
