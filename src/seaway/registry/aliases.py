"""Aliases: names for versions, kept as a log; what a name means now is its last event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import audit
from seaway.registry.database import now
from seaway.registry.identity import checked_name
from seaway.registry.rows import get_id, insert_row, named
from seaway.registry.tables import alias_events, models
from seaway.types import Alias, AliasEvent


def checked_alias(alias: str) -> str:
    """`alias` if it may be one. Raises InvalidRequest; digits alone would be taken for a version."""
    if checked_name("alias", alias).isdigit():
        raise InvalidRequest(f"The alias {alias!r} would be taken for a version number; use a name with a letter.")
    return alias


def set_(connection: Connection, model: str, alias: str, version: int | None, actor: str, reason: str) -> None:
    """Point `alias` at `version`; None takes the alias away. The caller has checked that the version exists."""
    before = find(connection, model, alias)
    if before == version:
        return
    values = {
        "model_id": get_id(connection, models, model), "alias": alias,
        "from_version": before, "to_version": version, "reason": reason, "at": now(), "by": actor,
    }  # fmt: skip
    insert_row(connection, alias_events, values)
    audit.write(connection, actor, "alias.set", f"{model}/{alias}", {"from": before, "to": version, "reason": reason})


def _events(model: str, alias: str) -> Select[Any]:
    joined = select(alias_events).join(models, models.c.id == alias_events.c.model_id)
    return joined.where(named(models, model), alias_events.c.alias == checked_name("alias", alias))


def find(connection: Connection, model: str, alias: str, at: datetime | None = None) -> int | None:
    """The version that `alias` means, now or at a past time; None when it meant nothing."""
    query = _events(model, alias)
    query = query.where(alias_events.c.at <= _utc(at)) if at is not None else query
    row = connection.execute(query.order_by(alias_events.c.id.desc()).limit(1)).first()
    return row.to_version if row else None


def _utc(at: datetime) -> datetime:
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRequest("at must be a time that exists in UTC too.") from error


def resolve(connection: Connection, model: str, alias: str, at: datetime | None = None) -> int:
    """Raises NotFound."""
    version = find(connection, model, alias, at)
    if version is None:
        get_id(connection, models, model)
        raise NotFound(f"Model {model!r} has no version or alias {alias!r}{' at that time' if at else ''}.")
    return version


def current(connection: Connection, names: list[str]) -> dict[str, tuple[Alias, ...]]:
    """Model name -> its aliases that mean something, by name."""
    joined = select(alias_events, models.c.name.label("model")).join(models, models.c.id == alias_events.c.model_id)
    newest = (
        select(func.max(alias_events.c.id))
        .join(models, models.c.id == alias_events.c.model_id)
        .where(models.c.name.in_(names))
        .group_by(alias_events.c.model_id, alias_events.c.alias)
    )
    query = joined.where(alias_events.c.id.in_(newest), alias_events.c.to_version.is_not(None))
    found: dict[str, tuple[Alias, ...]] = dict.fromkeys(names, ())
    for row in connection.execute(query.order_by(alias_events.c.alias)):
        found[row.model] += (Alias(row.model, row.alias, row.to_version, row.at, row.by),)
    return found


def of_model(connection: Connection, model: str) -> tuple[Alias, ...]:
    """Raises NotFound."""
    get_id(connection, models, model)
    return current(connection, [model])[model]


def history(connection: Connection, model: str, alias: str) -> tuple[AliasEvent, ...]:
    """Oldest first. Raises NotFound for a name that was never an alias."""
    rows = connection.execute(_events(model, alias).order_by(alias_events.c.id)).all()
    if not rows:
        get_id(connection, models, model)
        raise NotFound(f"Model {model!r} has never had an alias {alias!r}.")
    return tuple(_event(model, row) for row in rows)


def _event(model: str, row: Row[Any]) -> AliasEvent:
    return AliasEvent(model, row.alias, row.from_version, row.to_version, row.at, row.by, row.reason)
