"""Routes of experiments: a model specification on exactly one dataset version."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from seaway.api import schemas, views
from seaway.api.requests import Actor, Body, FieldName, Limit, Name, Number, OnlyModel, Text, body_of, described
from seaway.registry import Registry
from seaway.types import Json


class ExperimentBody(Body):
    """The parts of an experiment; its id is a pure function of them."""

    dataset: FieldName
    dataset_version: Number | None = Field(None, description="The newest when it is not given.")
    model: FieldName
    architecture: Text = Field(min_length=1)
    hyper_parameters: dict[str, Any] = Field(default_factory=dict)
    validation_strategy: Text = ""
    code_commit: Text = Field("", max_length=200)


def experiment_routes(registry: Registry) -> APIRouter:
    router = APIRouter(prefix="/api/experiments", tags=["experiments"])

    @router.post(
        "",
        summary="Create an experiment",
        status_code=201,
        response_model=schemas.Experiment,
        responses={200: {"model": schemas.Experiment, "description": "An experiment with these parts exists."}},
        openapi_extra=described(ExperimentBody),
    )
    def create(
        response: Response, actor: Actor, body: Annotated[ExperimentBody, Depends(body_of(ExperimentBody))]
    ) -> Json:
        """201 for a new experiment, 200 when one with these parts exists."""
        spec = body.model_dump(include={"architecture", "hyper_parameters", "validation_strategy", "code_commit"})
        experiment, new = registry.create_experiment(body.dataset, body.dataset_version, body.model, spec, actor)
        response.status_code = 201 if new else 200
        return views.plain(experiment)

    @router.get("", summary="Experiments, newest first", response_model=schemas.Listed[schemas.Experiment])
    def list_(model: OnlyModel = None, limit: Limit = 100) -> Json:
        return views.items(registry.list_experiments(model, limit))

    @router.get(
        "/{experiment_id}",
        summary="An experiment, the versions that came of it and how well they did",
        response_model=schemas.Experiment,
    )
    def get(experiment_id: Name) -> Json:
        return views.plain(registry.get_experiment(experiment_id))

    return router
