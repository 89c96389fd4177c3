"""Dataset versions: exact bytes, never a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, select

from seaway.errors import NotFound
from seaway.registry import audit
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
from seaway.registry.tables import dataset_versions, datasets
from seaway.registry.tabular import describe_table
from seaway.types import DatasetVersion, Json, Manifest, Page


def describe(directory: Path, manifest: Manifest) -> tuple[int | None, Json | None]:
    """(rows, schema) of a dataset that is one table; else (None, None)."""
    return describe_table(directory / manifest.files[0].path) if len(manifest.files) == 1 else (None, None)


def add(  # noqa: PLR0913 - the columns of a row
    connection: Connection, name: str, manifest: Manifest, *, described: tuple[int | None, Json | None],
    description: str, source: Json | None, actor: str,
) -> tuple[DatasetVersion, bool]:  # fmt: skip
    """The version of these bytes; True when it is new."""
    dataset_id = make_named(connection, datasets, name, description, actor)
    known = connection.execute(
        select(dataset_versions.c.number).where(
            dataset_versions.c.dataset_id == dataset_id, dataset_versions.c.digest == manifest.digest
        )
    ).scalar()
    if known is not None:
        return get(connection, name, known), False
    number = next_number(connection, dataset_versions, "dataset_id", dataset_id)
    values = {
        "dataset_id": dataset_id, "number": number, "digest": manifest.digest,
        "files": msgspec.to_builtins(manifest.files), "n_bytes": manifest.n_bytes,
        "n_rows": described[0], "schema": described[1], "source": source,
        "created_at": now(), "created_by": actor,
    }  # fmt: skip
    insert_row(connection, dataset_versions, values)
    audit.write(connection, actor, "dataset.version", f"{name}/{number}", {"digest": manifest.digest})
    return get(connection, name, number), True


_JOINED = select(dataset_versions, datasets.c.name).join(datasets, datasets.c.id == dataset_versions.c.dataset_id)


def get(connection: Connection, name: str, number: int | None = None) -> DatasetVersion:
    """The version, or the newest. Raises NotFound."""
    query = _JOINED.where(named(datasets, name))
    query = query.where(dataset_versions.c.number == number) if number is not None else query
    possible = number is None or is_number(number)
    row = connection.execute(query.order_by(dataset_versions.c.number.desc()).limit(1)).first() if possible else None
    if row is None:
        if number is not None:
            raise no_version(connection, datasets, name, dataset_versions, number)
        get_id(connection, datasets, name)
        raise NotFound(f"Dataset {name!r} has no version yet.")
    return _value(row)


def row_id(connection: Connection, name: str, number: int) -> int:
    """The key of a version that exists."""
    query = select(dataset_versions.c.id).join(datasets, datasets.c.id == dataset_versions.c.dataset_id)
    return int(connection.execute(query.where(named(datasets, name), dataset_versions.c.number == number)).scalar_one())


def versions(connection: Connection, name: str) -> tuple[DatasetVersion, ...]:
    """Oldest first. Raises NotFound."""
    get_id(connection, datasets, name)
    rows = connection.execute(_JOINED.where(named(datasets, name)).order_by(dataset_versions.c.number))
    return tuple(_value(row) for row in rows)


def page(connection: Connection, limit: int, cursor: str | None) -> Page[Json]:
    """Names with their newest version, by name."""
    query = (
        select(datasets.c.name, datasets.c.description, func.max(dataset_versions.c.number).label("newest"))
        .outerjoin(dataset_versions, dataset_versions.c.dataset_id == datasets.c.id)
        .group_by(datasets.c.id, datasets.c.name, datasets.c.description)
        .order_by(datasets.c.name)
        .limit(limit + 1)
    )
    query = query.where(datasets.c.name > checked_name("cursor", cursor)) if cursor is not None else query
    rows = [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name
    return Page(tuple(rows[:limit]), rows[limit - 1]["name"] if len(rows) > limit else None)


def _value(row: Row[Any]) -> DatasetVersion:
    return DatasetVersion(
        row.name, row.number, row.digest, manifest_of(row), row.created_at, row.created_by,
        row.n_rows, row.schema, row.source,
    )  # fmt: skip
