"""Dataset versions: exact bytes, never a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, select

from seaway.errors import NotFound
from seaway.registry import audit
from seaway.registry.database import aware, now
from seaway.registry.rows import get_id, insert_row, is_number, make_named, manifest_of, next_number
from seaway.registry.tables import dataset_versions, datasets
from seaway.types import DatasetVersion, Json, Manifest, Page


def describe_table(directory: Path, manifest: Manifest) -> tuple[int | None, Json | None]:
    """(rows, schema) of a dataset that is one Parquet or CSV file; else, and without pyarrow, (None, None)."""
    if len(manifest.files) != 1:
        return None, None
    name = manifest.files[0].path
    if not name.endswith((".parquet", ".csv")):
        return None, None
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import csv, parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        return None, None
    try:
        if name.endswith(".parquet"):
            file = parquet.ParquetFile(directory / name)
            return file.metadata.num_rows, {field.name: str(field.type) for field in file.schema_arrow}
        table = csv.read_csv(directory / name)
    except (pa.ArrowException, OSError):
        # The name promises a table and the bytes aren't one: a dataset of bytes all the same.
        return None, None
    return table.num_rows, {field.name: str(field.type) for field in table.schema}


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
    query = _JOINED.where(datasets.c.name == name).order_by(dataset_versions.c.number.desc()).limit(1)
    query = query.where(dataset_versions.c.number == number) if number is not None else query
    row = connection.execute(query).first() if number is None or is_number(number) else None
    if row is None:
        get_id(connection, datasets, "dataset", name)
        raise NotFound(f"Dataset {name!r} has no version {number}.")
    return _value(row)


def get_by_id(connection: Connection, row_id: int) -> DatasetVersion:
    return _value(connection.execute(_JOINED.where(dataset_versions.c.id == row_id)).one())


def versions(connection: Connection, name: str) -> tuple[DatasetVersion, ...]:
    """Oldest first. Raises NotFound."""
    get_id(connection, datasets, "dataset", name)
    return tuple(_value(row) for row in connection.execute(_JOINED.where(datasets.c.name == name).order_by("number")))


def page(connection: Connection, limit: int, cursor: str | None) -> Page[Json]:
    """Names with their newest version, by name."""
    query = (
        select(datasets.c.name, datasets.c.description, func.max(dataset_versions.c.number).label("newest"))
        .outerjoin(dataset_versions, dataset_versions.c.dataset_id == datasets.c.id)
        .group_by(datasets.c.id, datasets.c.name, datasets.c.description)
        .order_by(datasets.c.name)
        .limit(limit + 1)
    )
    query = query.where(datasets.c.name > cursor) if cursor is not None else query
    rows = [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name
    return Page(tuple(rows[:limit]), rows[limit - 1]["name"] if len(rows) > limit else None)


def _value(row: Row[Any]) -> DatasetVersion:
    return DatasetVersion(
        row.name, row.number, row.digest, manifest_of(row), aware(row.created_at), row.created_by,
        row.n_rows, row.schema, row.source,
    )  # fmt: skip
