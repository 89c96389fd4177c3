"""The Open Inference Protocol beside inference: health, metadata, configuration, statistics (WIRE contract 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from seaway import __version__
from seaway.errors import NotSupported, Unavailable
from seaway.serving.plane import DataPlane
from seaway.types import ServedVersion, Signature, TensorSpec

EXTENSIONS = [
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
]
Statistics = Callable[[list[ServedVersion]], dict[str, Any]]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def metadata(served: ServedVersion, versions: list[int]) -> dict[str, Any]:
    """Model metadata as every v2 client reads it."""
    return {
        "name": served.model,
        "versions": [str(version) for version in versions],
        "platform": served.platform,
        "inputs": [_tensor(spec) for spec in served.signature.inputs],
        "outputs": [_tensor(spec) for spec in served.signature.outputs],
    }


def configuration(served: ServedVersion) -> dict[str, Any]:
    """Triton's model configuration, as far as it has a meaning here; perf_analyzer needs it.

    A model whose tensors all begin with a variable dimension takes several samples in one request; Triton leaves that
    dimension out of `dims`.
    """
    batch, batching = served.signature.batchable, served.batching
    kind = "KIND_GPU" if batching is not None and batching.device != "cpu" else "KIND_CPU"
    more: dict[str, Any] = {}
    if batching is not None:
        delay = round((batching.max_queue_delay_seconds or 0.0) * 1e6)
        preferred = list(batching.preferred_batch_rows or ())
        more = {"dynamic_batching": {"preferred_batch_size": preferred, "max_queue_delay_microseconds": delay}}
    return {
        "name": served.model,
        "platform": served.platform,
        "backend": served.platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [served.version]}},
        "max_batch_size": served.max_batch_size if batch else 0,
        "input": _config_tensors(served.signature, batch=batch, inputs=True),
        "output": _config_tensors(served.signature, batch=batch, inputs=False),
        "instance_group": [{"name": served.model, "kind": kind, "count": sum(w.engines for w in served.workers) or 1}],
        "default_model_filename": "model.onnx" if served.platform.endswith("_onnx") else "",
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
        **more,
    }


def _config_tensors(signature: Signature, *, batch: bool, inputs: bool) -> list[dict[str, Any]]:
    specs = signature.inputs if inputs else signature.outputs
    return [
        {
            "name": spec.name,
            "data_type": "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}",
            "dims": list(spec.shape[1:] if batch else spec.shape),
            **({"optional": False, "is_shape_tensor": False} if inputs else {}),
        }
        for spec in specs
    ]


def protocol_routes(plane: DataPlane, statistics: Statistics) -> APIRouter:  # noqa: C901 - a list of short routes
    """Everything of `/v2` that a gateway answers itself, except inference."""
    router = APIRouter(tags=["open inference protocol"])

    def served(model: str, version: str | None) -> tuple[ServedVersion, list[int]]:
        found = plane.resolve(model, version)
        router_now = plane.router
        arms = router_now.models.get(model, []) if router_now else []
        return found, sorted(arm.version for arm in arms)

    @router.get("/v2", summary="Server metadata")
    @router.get("/v2/", include_in_schema=False)
    async def server() -> dict[str, Any]:
        return {"name": "seaway", "version": __version__, "extensions": EXTENSIONS}

    @router.get("/v2/health/live", summary="Is the server alive?")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready", summary="Can the server answer?")
    async def ready() -> Response:
        if plane.router is None or not plane.router.table.started:
            return JSONResponse({"ready": False, "error": "The server starts: its deployments are not ready yet."}, 503)
        return JSONResponse({"ready": True})

    async def model_metadata(model: str, version: str | None = None) -> dict[str, Any]:
        return metadata(*served(model, version))

    async def model_ready(model: str, version: str | None = None) -> dict[str, Any]:
        found, _ = served(model, version)
        if not found.workers:
            raise Unavailable(f"The worker of {model!r} died and is being replaced; retry in a moment.")
        return {"name": model, "ready": True}

    async def model_config(model: str, version: str | None = None) -> dict[str, Any]:
        return configuration(served(model, version)[0])

    async def model_statistics(model: str, version: str | None = None) -> dict[str, Any]:
        found, _ = served(model, version)
        everything = plane.router.models[model] if plane.router else []
        return statistics([found] if version else everything)

    @router.get("/v2/models/stats", summary="Statistics of all models")
    async def all_statistics() -> dict[str, Any]:
        return statistics([arm for arms in plane.router.models.values() for arm in arms] if plane.router else [])

    for suffix, endpoint, summary in (
        ("", model_metadata, "Model metadata"),
        ("/ready", model_ready, "Can this model answer?"),
        ("/config", model_config, "Model configuration"),
        ("/stats", model_statistics, "Model statistics"),
    ):
        for prefix in ("/v2/models/{model}/versions/{version}", "/v2/models/{model}"):
            router.add_api_route(prefix + suffix, endpoint, methods=["GET"], summary=summary)

    async def unsupported() -> None:
        raise NotSupported("This part of Triton's protocol is not offered here; GET /v2 lists the extensions that are.")

    for path in (
        "/v2/models/{model}/generate", "/v2/models/{model}/generate_stream",
        "/v2/models/{model}/versions/{version}/generate", "/v2/models/{model}/versions/{version}/generate_stream",
        "/v2/models/{model}/trace/setting", "/v2/trace/setting", "/v2/logging",
        "/v2/systemsharedmemory/{rest:path}", "/v2/cudasharedmemory/{rest:path}",
    ):  # fmt: skip
        router.add_api_route(path, unsupported, methods=["GET", "POST"], include_in_schema=False)
    return router
