"""Routes of experiments: a model specification on exactly one dataset version."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from seaway.api import views
from seaway.api.requests import Actor, Body, Limit, body_of, described
from seaway.registry import Registry


class ExperimentBody(Body):
    """The parts of an experiment; its id is a pure function of them."""

    dataset: str
    dataset_version: int | None = Field(None, ge=1, description="The newest when it is not given.")
    model: str
    architecture: str = Field(min_length=1, max_length=2000)
    hyper_parameters: dict[str, Any] = Field(default_factory=dict)
    validation_strategy: str = Field("", max_length=2000)
    code_commit: str = Field("", max_length=200)


def experiment_routes(registry: Registry) -> APIRouter:
    router = APIRouter(prefix="/api/experiments", tags=["experiments"])

    @router.post("", summary="Create an experiment", status_code=201, openapi_extra=described(ExperimentBody))
    def create(
        response: Response, actor: Actor, body: Annotated[ExperimentBody, Depends(body_of(ExperimentBody))]
    ) -> dict[str, Any]:
        """201 for a new experiment, 200 when one with these parts exists."""
        spec = body.model_dump(include={"architecture", "hyper_parameters", "validation_strategy", "code_commit"})
        experiment, new = registry.create_experiment(body.dataset, body.dataset_version, body.model, spec, actor)
        response.status_code = 201 if new else 200
        created: dict[str, Any] = views.plain(experiment)
        return created

    @router.get("", summary="Experiments, newest first")
    def list_(model: Annotated[str | None, Query()] = None, limit: Limit = 100) -> dict[str, Any]:
        return views.items(registry.list_experiments(model, limit))

    @router.get("/{experiment_id}", summary="An experiment, the versions that came of it and how well they did")
    def get(experiment_id: str) -> dict[str, Any]:
        found: dict[str, Any] = views.plain(registry.get_experiment(experiment_id))
        return found

    return router
