"""What all nouns need: finding things by name, counting versions, writing rows that any database can keep."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, String, Table, func, insert, select

from seaway.errors import InvalidRequest, NotFound
from seaway.registry.database import now
from seaway.registry.identity import canonical_json, checked_name, checked_text
from seaway.types import Manifest

MAX_PAGE = 1000
MAX_ID = 2**63 - 1


def kind_of(table: Table) -> str:
    """`model` for the table of models."""
    return table.name.removesuffix("s")


def named(table: Table, name: str) -> ColumnElement[bool]:
    """The condition that a row of `table` is called `name`. Raises InvalidRequest for what can't be a name."""
    return table.c.name == checked_name(kind_of(table), name)


def find_id(connection: Connection, table: Table, name: str) -> int | None:
    found = connection.execute(select(table.c.id).where(named(table, name))).scalar()
    return None if found is None else int(found)


def get_id(connection: Connection, table: Table, name: str) -> int:
    """Raises NotFound."""
    found = find_id(connection, table, name)
    if found is None:
        raise NotFound(f"There is no {kind_of(table)} named {name!r}; `seaway {table.name}` lists what there is.")
    return found


def make_named(connection: Connection, table: Table, name: str, description: str, actor: str) -> int:
    """The row's id; it is made when the name is new."""
    found = find_id(connection, table, name)
    if found is not None:
        return found
    values = {"name": name, "description": description, "created_at": now(), "created_by": actor}
    return insert_row(connection, table, values)


def insert_row(connection: Connection, table: Table, values: dict[str, Any]) -> int:
    """Insert and return the new id. Raises InvalidRequest for text and JSON that only one of the databases keeps."""
    for name, value in values.items():
        if isinstance(value, str):
            kind = table.c[name].type
            checked_text(name, value, max_characters=kind.length if isinstance(kind, String) else None)
        elif isinstance(value, dict | list):
            canonical_json(value, name)
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None  # noqa: S101 - every table here has one
    return int(key[0])


def next_number(connection: Connection, table: Table, owner: str, owner_id: int) -> int:
    """Versions are counted 1, 2, 3; writers come one at a time, so there are no gaps and no duplicates."""
    highest = connection.execute(select(func.max(table.c.number)).where(table.c[owner] == owner_id)).scalar()
    return (highest or 0) + 1


def no_version(connection: Connection, owners: Table, name: str, versions: Table, wanted: int | str) -> NotFound:
    """To be raised: which versions `name` has instead. Raises NotFound itself for an unknown name."""
    owner = get_id(connection, owners, name)
    newest = next_number(connection, versions, f"{kind_of(owners)}_id", owner) - 1
    there = f"the newest is {newest}" if newest else "it has none yet"
    return NotFound(f"{kind_of(owners).capitalize()} {name!r} has no version {wanted}; {there}.")


def is_number(version: int) -> bool:
    """Whether a version can have this number at all; databases refuse to compare with larger ones."""
    return 0 < version < 1 << 31


def checked_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be from 1 to {MAX_PAGE}.")
    return limit


def manifest_of(row: Row[Any]) -> Manifest:
    return msgspec.convert({"files": row.files}, Manifest)
