"""Experiments: a model specification on exactly one dataset version, and the versions that came of it."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import audit, datasets
from seaway.registry.database import now
from seaway.registry.identity import experiment_id, spec_digest
from seaway.registry.rows import insert_row, make_named, named
from seaway.registry.tables import dataset_versions, experiments, model_versions, models, trainings
from seaway.registry.tables import datasets as dataset_rows
from seaway.types import Experiment, Json, TrainedVersion

SPEC_KEYS = ("architecture", "hyper_parameters", "validation_strategy", "code_commit")
_ID = re.compile(r"[0-9a-f]{32}")


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
    known = _fetch(connection, _JOINED.where(experiments.c.experiment_id == identity))
    if known:
        return known[0], False
    values = {
        "experiment_id": identity,
        "dataset_version_id": datasets.row_id(connection, dataset, trained_on.version),
        "model_id": make_named(connection, models, model, "", actor),
        "spec": whole, "spec_digest": digest, "created_at": now(), "created_by": actor,
    }  # fmt: skip
    insert_row(connection, experiments, values)
    audit.write(connection, actor, "experiment.create", identity, {"dataset_digest": trained_on.digest, "model": model})
    return get(connection, identity), True


_JOINED = (
    select(
        experiments, models.c.name.label("model"), dataset_rows.c.name.label("dataset"),
        dataset_versions.c.number.label("dataset_version"), dataset_versions.c.digest.label("dataset_digest"),
    )
    .join(models, models.c.id == experiments.c.model_id)
    .join(dataset_versions, dataset_versions.c.id == experiments.c.dataset_version_id)
    .join(dataset_rows, dataset_rows.c.id == dataset_versions.c.dataset_id)
)  # fmt: skip

_TRAINED = (
    select(
        trainings.c.experiment_id, trainings.c.metrics, trainings.c.created_at,
        model_versions.c.number, models.c.name,
    )
    .join(model_versions, model_versions.c.id == trainings.c.model_version_id)
    .join(models, models.c.id == model_versions.c.model_id)
    .order_by(trainings.c.id)
)  # fmt: skip


def get(connection: Connection, identity: str) -> Experiment:
    """Raises NotFound."""
    known = _ID.fullmatch(identity) is not None
    found = _fetch(connection, _JOINED.where(experiments.c.experiment_id == identity)) if known else ()
    if not found:
        raise NotFound(f"There is no experiment {identity[:64]!r}.")
    return found[0]


def newest(connection: Connection, model: str | None, limit: int) -> tuple[Experiment, ...]:
    """Newest first; of every model when none is named."""
    query = _JOINED.order_by(experiments.c.id.desc()).limit(limit)
    return _fetch(connection, query.where(named(models, model)) if model is not None else query)


def _fetch(connection: Connection, query: Select[Any]) -> tuple[Experiment, ...]:
    rows = connection.execute(query).all()
    trained: dict[str, tuple[TrainedVersion, ...]] = {row.experiment_id: () for row in rows}
    if rows:
        ids = query.with_only_columns(experiments.c.experiment_id, maintain_column_froms=True)
        for one in connection.execute(_TRAINED.where(trainings.c.experiment_id.in_(ids))):
            trained[one.experiment_id] += (TrainedVersion(one.name, one.number, one.metrics, one.created_at),)
    return tuple(_value(row, trained[row.experiment_id]) for row in rows)


def _value(row: Row[Any], trained: tuple[TrainedVersion, ...]) -> Experiment:
    return Experiment(
        row.experiment_id, row.dataset, row.dataset_version, row.dataset_digest, row.model, row.spec, row.spec_digest,
        row.created_at, trained,
    )  # fmt: skip
