"""Aliases: names for versions, kept as a log; what a name means now is its last event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from seaway.errors import NotFound
from seaway.registry import audit
from seaway.registry.database import aware, now
from seaway.registry.rows import get_id, insert_row
from seaway.registry.tables import alias_events, models
from seaway.types import Alias, AliasEvent


def _events(connection: Connection, model: str) -> Any:
    model_id = get_id(connection, models, "model", model)
    return select(alias_events).where(alias_events.c.model_id == model_id)


def set_(connection: Connection, model: str, alias: str, version: int | None, actor: str, reason: str) -> None:
    """Point `alias` at `version`; None takes the alias away. The caller has checked that the version exists."""
    before = find(connection, model, alias)
    if before == version:
        return
    values = {
        "model_id": get_id(connection, models, "model", model), "alias": alias,
        "from_version": before, "to_version": version, "reason": reason, "at": now(), "by": actor,
    }  # fmt: skip
    insert_row(connection, alias_events, values)
    audit.write(connection, actor, "alias.set", f"{model}/{alias}", {"from": before, "to": version, "reason": reason})


def find(connection: Connection, model: str, alias: str, at: datetime | None = None) -> int | None:
    """The version that `alias` means, now or at a past time; None when it meant nothing."""
    query = _events(connection, model).where(alias_events.c.alias == alias)
    query = query.where(alias_events.c.at <= at) if at is not None else query
    row = connection.execute(query.order_by(alias_events.c.id.desc()).limit(1)).first()
    return row.to_version if row else None


def resolve(connection: Connection, model: str, alias: str, at: datetime | None = None) -> int:
    """Raises NotFound."""
    version = find(connection, model, alias, at)
    if version is None:
        raise NotFound(f"Model {model!r} has no version or alias {alias[:128]!r}.")
    return version


def current(connection: Connection, model: str) -> tuple[Alias, ...]:
    """All aliases of a model that mean something, by name."""
    newest = select(func.max(alias_events.c.id)).where(
        alias_events.c.model_id == get_id(connection, models, "model", model)
    )
    query = select(alias_events).where(
        alias_events.c.id.in_(newest.group_by(alias_events.c.alias)), alias_events.c.to_version.is_not(None)
    )
    rows = connection.execute(query.order_by(alias_events.c.alias))
    return tuple(Alias(model, row.alias, row.to_version, aware(row.at), row.by) for row in rows)


def history(connection: Connection, model: str, alias: str) -> tuple[AliasEvent, ...]:
    """Oldest first. Raises NotFound for a name that was never an alias."""
    rows = connection.execute(_events(connection, model).where(alias_events.c.alias == alias).order_by("id")).all()
    if not rows:
        raise NotFound(f"Model {model!r} has never had an alias {alias[:128]!r}.")
    return tuple(_event(model, row) for row in rows)


def _event(model: str, row: Row[Any]) -> AliasEvent:
    return AliasEvent(model, row.alias, row.from_version, row.to_version, aware(row.at), row.by, row.reason)
