"""Models and their versions: artifact, signature and preprocessing, fixed for ever."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, Row, func, select

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import aliases, audit, experiments
from seaway.registry.database import now
from seaway.registry.identity import checked_name
from seaway.registry.rows import (
    get_id,
    insert_row,
    is_number,
    make_named,
    manifest_of,
    named,
    next_number,
    no_version,
)
from seaway.registry.tables import model_versions, models, trainings
from seaway.types import NAME, Json, Manifest, ModelVersion, Page, Signature

_MAX_DIGITS = 10


class Inspected(Protocol):
    """What inspection found in a package."""

    @property
    def runtime(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def spec(self) -> Json: ...


def add(  # noqa: PLR0913 - the columns of a row
    connection: Connection, name: str, manifest: Manifest, found: Inspected, *,
    experiment_id: str | None, metrics: Json | None, description: str, actor: str,
) -> tuple[ModelVersion, bool]:  # fmt: skip
    """The version of these bytes; True when it is new. A known version may still be linked to an experiment."""
    model_id = make_named(connection, models, name, description, actor)
    known = connection.execute(
        select(model_versions.c.number).where(
            model_versions.c.model_id == model_id, model_versions.c.digest == manifest.digest
        )
    ).scalar()
    number = known or next_number(connection, model_versions, "model_id", model_id)
    if known is None:
        values = {
            "model_id": model_id, "number": number, "digest": manifest.digest,
            "files": msgspec.to_builtins(manifest.files), "n_bytes": manifest.n_bytes,
            "runtime": found.runtime, "platform": found.platform,
            "signature": msgspec.to_builtins(found.signature), "spec": found.spec,
            "created_at": now(), "created_by": actor,
        }  # fmt: skip
        insert_row(connection, model_versions, values)
        audit.write(connection, actor, "model.version", f"{name}/{number}", {"digest": manifest.digest})
    if experiment_id is not None:
        _link(connection, name, number, experiment_id, metrics or {}, actor)
    elif metrics:
        raise InvalidRequest("metrics belong to an experiment: name experiment_id too.")
    return get(connection, name, number), known is None


def _link(connection: Connection, name: str, number: int, experiment_id: str, metrics: Json, actor: str) -> None:
    experiment = experiments.get(connection, experiment_id)
    if experiment.model != name:
        raise InvalidRequest(f"Experiment {experiment_id} is of model {experiment.model!r}, not of {name!r}.")
    if any((one.version, one.metrics) == (number, metrics) for one in experiment.trained):
        return
    values = {
        "experiment_id": experiment_id, "model_version_id": row_id(connection, name, number),
        "metrics": metrics, "created_at": now(), "created_by": actor,
    }  # fmt: skip
    insert_row(connection, trainings, values)
    audit.write(connection, actor, "experiment.trained", experiment_id, {"model": name, "version": number})


_JOINED = select(
    model_versions,
    models.c.name,
    select(trainings.c.experiment_id)
    .where(trainings.c.model_version_id == model_versions.c.id)
    .order_by(trainings.c.id)
    .limit(1)
    .scalar_subquery()
    .label("experiment_id"),
).join(models, models.c.id == model_versions.c.model_id)


def row_id(connection: Connection, name: str, number: int) -> int:
    """Raises NotFound."""
    query = select(model_versions.c.id).join(models, models.c.id == model_versions.c.model_id)
    query = query.where(named(models, name), model_versions.c.number == number)
    found = connection.execute(query).scalar() if is_number(number) else None
    if found is None:
        raise no_version(connection, models, name, model_versions, number)
    return int(found)


def get(connection: Connection, name: str, version: int | str | None = None) -> ModelVersion:
    """By number, by alias, or the newest. Raises NotFound."""
    number = _number(connection, name, version) if isinstance(version, str) else version
    query = _JOINED.where(named(models, name))
    query = query.where(model_versions.c.number == number) if number is not None else query
    possible = number is None or is_number(number)
    row = connection.execute(query.order_by(model_versions.c.number.desc()).limit(1)).first() if possible else None
    if row is None:
        if version is not None:
            raise no_version(connection, models, name, model_versions, version)
        get_id(connection, models, name)
        raise NotFound(f"Model {name!r} has no version yet.")
    return _value(row)


def _number(connection: Connection, name: str, text: str) -> int:
    """The version that a number in text or an alias means."""
    if not NAME.fullmatch(text):
        raise NotFound(f"Model {checked_name('model', name)!r} has no version or alias {text[:128]!r}.")
    if text.isdigit():
        return int(text) if len(text) <= _MAX_DIGITS else 0
    return aliases.resolve(connection, name, text)


def find_digest(connection: Connection, name: str, digest: str) -> ModelVersion | None:
    row = connection.execute(_JOINED.where(named(models, name), model_versions.c.digest == digest)).first()
    return _value(row) if row else None


def versions(connection: Connection, name: str) -> tuple[ModelVersion, ...]:
    """Oldest first. Raises NotFound."""
    get_id(connection, models, name)
    rows = connection.execute(_JOINED.where(named(models, name)).order_by(model_versions.c.number))
    return tuple(_value(row) for row in rows)


def page(connection: Connection, limit: int, cursor: str | None) -> Page[Json]:
    """Names with their newest version and aliases, by name."""
    query = (
        select(
            models.c.name, models.c.description,
            func.max(model_versions.c.number).label("newest"), func.count(model_versions.c.id).label("n_versions"),
        )
        .outerjoin(model_versions, model_versions.c.model_id == models.c.id)
        .group_by(models.c.id, models.c.name, models.c.description)
        .order_by(models.c.name)
        .limit(limit + 1)
    )  # fmt: skip
    query = query.where(models.c.name > checked_name("cursor", cursor)) if cursor is not None else query
    rows = [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name
    named_so = aliases.current(connection, [row["name"] for row in rows[:limit]])
    for row in rows[:limit]:
        row["aliases"] = {alias.name: alias.version for alias in named_so[row["name"]]}
    return Page(tuple(rows[:limit]), rows[limit - 1]["name"] if len(rows) > limit else None)


def _value(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        row.name, row.number, row.digest, manifest_of(row), row.runtime, row.platform,
        msgspec.convert(row.signature, Signature), row.spec, row.created_at, row.created_by, row.experiment_id,
    )  # fmt: skip
