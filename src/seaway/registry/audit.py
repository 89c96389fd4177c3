"""The audit log: written in the same transaction as the change it tells of, each row chained to the one before."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Connection, Row, select

from seaway.errors import ArtifactCorrupt, InvalidRequest
from seaway.registry.database import now
from seaway.registry.identity import canonical_json
from seaway.registry.rows import MAX_ID, insert_row
from seaway.registry.tables import audit_log
from seaway.types import AuditEntry, Json, Page

_FIRST = "0" * 64


def write(connection: Connection, actor: str, action: str, entity: str, detail: Json) -> None:
    """Append one entry. Called within the transaction of the change."""
    last = connection.execute(
        select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc()).limit(1)
    ).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, _FIRST)
    row = {"seq": seq, "at": now(), "actor": actor, "action": action, "entity": entity, "detail": detail}
    insert_row(connection, audit_log, row | {"prev_hash": previous, "hash": _hash(previous, row)})


def _hash(previous: str, row: dict[str, Any]) -> str:
    content = canonical_json({**row, "at": row["at"].isoformat()})
    return hashlib.sha256((previous + content).encode()).hexdigest()


def entries(connection: Connection, limit: int, cursor: str | None) -> Page[AuditEntry]:
    """Newest first."""
    query = select(audit_log).order_by(audit_log.c.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(audit_log.c.seq < _place(cursor))
    rows = connection.execute(query).all()
    return Page(tuple(_entry(row) for row in rows[:limit]), str(rows[limit - 1].seq) if len(rows) > limit else None)


def _place(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < len(str(MAX_ID))):
        raise InvalidRequest("cursor must be the next_cursor of the page before.")
    return int(cursor)


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(row.seq, row.at, row.actor, row.action, row.entity, row.detail, row.prev_hash, row.hash)


def verify(connection: Connection) -> None:
    """Recompute the chain. Raises ArtifactCorrupt naming the first entry that was changed, added or removed."""
    previous, expected = _FIRST, 1
    for row in connection.execute(select(audit_log).order_by(audit_log.c.seq)):
        fields = {name: getattr(row, name) for name in ("seq", "at", "actor", "action", "entity", "detail")}
        if row.seq != expected or row.prev_hash != previous or row.hash != _hash(previous, fields):
            raise ArtifactCorrupt(f"The audit log was changed at entry {expected}.")
        previous, expected = row.hash, expected + 1
