"""Experiments: a model specification on exactly one dataset version, and the versions that came of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import audit, datasets
from seaway.registry.database import aware, now
from seaway.registry.identity import experiment_id, spec_digest
from seaway.registry.rows import make_named
from seaway.registry.tables import dataset_versions, experiments, model_versions, models, trainings
from seaway.registry.tables import datasets as dataset_rows
from seaway.types import Experiment, Json, TrainedVersion

SPEC_KEYS = ("architecture", "hyper_parameters", "validation_strategy", "code_commit")


def create(
    connection: Connection, dataset: str, dataset_version: int | None, model: str, spec: Json, actor: str
) -> tuple[Experiment, bool]:
    """The experiment with these parts; True when it is new. Raises NotFound, InvalidRequest."""
    unknown = spec.keys() - set(SPEC_KEYS)
    if unknown or not spec.get("architecture"):
        raise InvalidRequest(f"A model specification has {', '.join(SPEC_KEYS)}; architecture can't be empty.")
    trained_on = datasets.get(connection, dataset, dataset_version)
    whole = {key: spec.get(key) for key in SPEC_KEYS} | {"model": model}
    digest = spec_digest(whole)
    identity = experiment_id(trained_on.digest, digest)
    if connection.execute(select(experiments.c.experiment_id).where(experiments.c.experiment_id == identity)).first():
        return get(connection, identity), False
    model_id = make_named(connection, models, model, "", actor)
    version_id = connection.execute(
        select(dataset_versions.c.id)
        .join(dataset_rows, dataset_rows.c.id == dataset_versions.c.dataset_id)
        .where(dataset_rows.c.name == dataset, dataset_versions.c.number == trained_on.version)
    ).scalar_one()
    connection.execute(
        insert(experiments).values(
            experiment_id=identity,
            dataset_version_id=version_id,
            model_id=model_id,
            spec=whole,
            spec_digest=digest,
            created_at=now(),
            created_by=actor,
        )
    )
    audit.write(connection, actor, "experiment.create", identity, {"dataset_digest": trained_on.digest, "model": model})
    return get(connection, identity), True


_JOINED = select(experiments, models.c.name.label("model")).join(models, models.c.id == experiments.c.model_id)


def get(connection: Connection, identity: str) -> Experiment:
    """Raises NotFound."""
    row = connection.execute(_JOINED.where(experiments.c.experiment_id == identity)).first()
    if row is None:
        raise NotFound(f"There is no experiment {identity[:64]!r}.")
    return _value(connection, row)


def all_(connection: Connection, model: str | None, limit: int) -> tuple[Experiment, ...]:
    """Newest first."""
    query = _JOINED.order_by(experiments.c.created_at.desc(), experiments.c.experiment_id).limit(limit)
    query = query.where(models.c.name == model) if model is not None else query
    return tuple(_value(connection, row) for row in connection.execute(query).all())


def _value(connection: Connection, row: Row[Any]) -> Experiment:
    dataset = datasets.get_by_id(connection, row.dataset_version_id)
    trained = connection.execute(
        select(trainings.c.metrics, trainings.c.created_at, model_versions.c.number, models.c.name)
        .join(model_versions, model_versions.c.id == trainings.c.model_version_id)
        .join(models, models.c.id == model_versions.c.model_id)
        .where(trainings.c.experiment_id == row.experiment_id)
        .order_by(trainings.c.id)
    )
    return Experiment(
        row.experiment_id, dataset.dataset, dataset.version, dataset.digest, row.model, row.spec, row.spec_digest,
        aware(row.created_at),
        tuple(TrainedVersion(one.name, one.number, one.metrics, aware(one.created_at)) for one in trained),
    )  # fmt: skip
