"""Deployments: append-only revisions of desired state, and what became of them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, func, or_, select

from seaway.errors import Conflict, InvalidRequest, NotFound
from seaway.registry import audit, datasets, experiments
from seaway.registry import models as model_rows
from seaway.registry.database import now
from seaway.registry.rows import MAX_ID, get_id, insert_row, named, next_number
from seaway.registry.tables import deployment_events, deployment_revisions, models
from seaway.types import Arm, DeploymentRevision, Json, ServingSettings

STATES = frozenset({"ready", "failed", "superseded", "undeployed"})
"""What may become of a revision; without an event it is pending."""
_DEMOTED = "demoted"
"""An event that leaves the state as it is: gateways stopped running the version themselves."""

_JOINED = select(deployment_revisions, models.c.name.label("model")).join(
    models, models.c.id == deployment_revisions.c.model_id
)


def append(  # noqa: PLR0913 - the columns of a row
    connection: Connection, model: str, action: str, arms: tuple[Arm, ...], settings: ServingSettings, *,
    reason: str, actor: str, copied_from: int | None = None,
) -> DeploymentRevision:  # fmt: skip
    """A new newest revision. The caller has checked that its versions exist."""
    model_id = get_id(connection, models, model)
    number = next_number(connection, deployment_revisions, "model_id", model_id)
    values = {
        "model_id": model_id, "number": number, "arms": msgspec.to_builtins(arms),
        "settings": msgspec.to_builtins(settings), "action": action, "copied_from": copied_from,
        "reason": reason, "created_at": now(), "created_by": actor,
    }  # fmt: skip
    revision_id = insert_row(connection, deployment_revisions, values)
    detail = {"revision": revision_id, "arms": msgspec.to_builtins(arms), "reason": reason}
    audit.write(connection, actor, f"deployment.{action}", f"{model}/{number}", detail)
    return get_revision(connection, revision_id)


def deploy(
    connection: Connection, model: str, version: int, *, settings: ServingSettings, actor: str, reason: str
) -> DeploymentRevision:
    """Ask for `version`; what is asked for already is not asked for twice, unless it failed. Raises NotFound."""
    model_rows.row_id(connection, model, version)
    arms = (Arm("stable", version),)
    current = find_newest(connection, model)
    if (
        current
        and current.state not in {"failed", "undeployed"}
        and (current.arms, current.settings) == (arms, settings)
    ):
        return current
    return append(connection, model, "deploy", arms, settings, reason=reason, actor=actor)


def undeploy(connection: Connection, model: str, *, actor: str, reason: str) -> DeploymentRevision:
    """Raises NotFound when it was never deployed."""
    current = newest(connection, model)
    if not current.arms:
        return current
    return append(connection, model, "undeploy", (), ServingSettings(), reason=reason, actor=actor)


def rollback(connection: Connection, model: str, *, actor: str, reason: str) -> DeploymentRevision:
    """Append a copy of the revision that was ready before the current one. Raises Conflict when there was none.

    A rollback stands where its original stood: rolling back again goes to what was ready before the original.
    """
    history = revisions(connection, model)
    if not history:
        raise NotFound(f"Model {model!r} was never deployed.")
    copies = _copies(connection, model)
    current = history[-1]
    place = copies.get(current.id, current.id)
    ready = [one for one in history if one.ready_at is not None and one.arms]
    earlier = [one for one in ready if one.id < place and (one.arms, one.settings) != (current.arms, current.settings)]
    if not earlier:
        raise Conflict(f"Nothing was ready before the current deployment of {model!r}; deploy a version instead.")
    target = earlier[-1]
    why = reason or f"back to revision {target.number}"
    original = copies.get(target.id, target.id)
    return append(
        connection, model, "rollback", target.arms, target.settings, reason=why, actor=actor, copied_from=original
    )


def _copies(connection: Connection, model: str) -> dict[int, int]:
    query = (
        select(deployment_revisions.c.id, deployment_revisions.c.copied_from)
        .join(models, models.c.id == deployment_revisions.c.model_id)
        .where(named(models, model), deployment_revisions.c.copied_from.is_not(None))
    )
    return {row.id: row.copied_from for row in connection.execute(query)}


def desired(connection: Connection) -> tuple[DeploymentRevision, ...]:
    """The newest revision of each model, by name."""
    ids = select(func.max(deployment_revisions.c.id)).group_by(deployment_revisions.c.model_id)
    return _fetch(connection, _JOINED.where(deployment_revisions.c.id.in_(ids)).order_by(models.c.name))


def find_newest(connection: Connection, model: str) -> DeploymentRevision | None:
    query = _JOINED.where(named(models, model)).order_by(deployment_revisions.c.id.desc()).limit(1)
    return next(iter(_fetch(connection, query)), None)


def newest(connection: Connection, model: str) -> DeploymentRevision:
    """Raises NotFound."""
    found = find_newest(connection, model)
    if found is None:
        get_id(connection, models, model)
        raise NotFound(f"Model {model!r} was never deployed; `seaway deploy {model}` does that.")
    return found


def revisions(connection: Connection, model: str) -> tuple[DeploymentRevision, ...]:
    """Oldest first. Raises NotFound."""
    get_id(connection, models, model)
    return _fetch(connection, _JOINED.where(named(models, model)).order_by(deployment_revisions.c.id))


def get_revision(connection: Connection, revision_id: int) -> DeploymentRevision:
    """Raises NotFound."""
    possible = 1 <= revision_id <= MAX_ID
    found = _fetch(connection, _JOINED.where(deployment_revisions.c.id == revision_id)) if possible else ()
    if not found:
        raise NotFound(f"There is no deployment revision {revision_id}.")
    return found[0]


def last_ready(connection: Connection, model: str) -> DeploymentRevision | None:
    """What goes on serving while something newer isn't ready: the newest that was, unless undeployed since."""
    ready = select(deployment_events.c.id).where(
        deployment_events.c.revision_id == deployment_revisions.c.id, deployment_events.c.state == "ready"
    )
    ended_or_ready = or_(deployment_revisions.c.action == "undeploy", ready.exists())
    query = _JOINED.where(named(models, model), ended_or_ready).order_by(deployment_revisions.c.id.desc()).limit(1)
    found = _fetch(connection, query)
    return found[0] if found and found[0].arms else None


def record_event(connection: Connection, revision_id: int, state: str, reason: str) -> None:
    """Note what became of a revision; the same twice in a row is noted once. Raises NotFound."""
    if state not in STATES:
        raise InvalidRequest(f"{state!r} is no state of a deployment; there are {', '.join(sorted(STATES))}.")
    if get_revision(connection, revision_id).state != state:
        values = {"revision_id": revision_id, "state": state, "reason": reason, "at": now()}
        insert_row(connection, deployment_events, values)


def record_demotion(connection: Connection, revision_id: int, reason: str) -> None:
    """Note why gateways don't run the revision themselves any more; the first reason stays. Raises NotFound."""
    if not get_revision(connection, revision_id).demoted:
        values = {"revision_id": revision_id, "state": _DEMOTED, "reason": reason, "at": now()}
        insert_row(connection, deployment_events, values)


def lineage(connection: Connection, revision_id: int, arm: int) -> Json:
    """From a prediction to bytes: revision, model version, experiment, dataset version. Raises NotFound."""
    revision = get_revision(connection, revision_id)
    if not 0 <= arm < len(revision.arms):
        raise NotFound(f"Deployment revision {revision_id} has no arm {arm}.")
    version = model_rows.get(connection, revision.model, revision.arms[arm].version)
    found: Json = {
        "model": revision.model, "version": version.version, "arm": revision.arms[arm].name,
        "artifact_digest": version.digest, "revision": revision.number, "revision_id": revision.id,
        "deployed_at": revision.created_at.isoformat(), "deployed_by": revision.created_by,
        "reason": revision.reason, "experiment": None, "dataset": None,
    }  # fmt: skip
    if version.experiment_id is not None:
        experiment = experiments.get(connection, version.experiment_id)
        dataset = datasets.get(connection, experiment.dataset, experiment.dataset_version)
        found["experiment"] = {"experiment_id": experiment.experiment_id, "spec": experiment.spec}
        found["dataset"] = {"name": dataset.dataset, "version": dataset.version, "digest": dataset.digest}
    return found


def _fetch(connection: Connection, query: Select[Any]) -> tuple[DeploymentRevision, ...]:
    """The revisions of `query` with what became of them: two queries, however many there are."""
    rows = connection.execute(query).all()
    events: dict[int, list[Row[Any]]] = {row.id: [] for row in rows}
    if rows:
        ids = query.with_only_columns(deployment_revisions.c.id, maintain_column_froms=True)
        found = select(deployment_events).where(deployment_events.c.revision_id.in_(ids))
        for event in connection.execute(found.order_by(deployment_events.c.id)):
            events[event.revision_id].append(event)
    return tuple(_value(row, events[row.id]) for row in rows)


def _value(row: Row[Any], events: list[Row[Any]]) -> DeploymentRevision:
    demoted = next((event for event in events if event.state == _DEMOTED), None)
    events = [event for event in events if event is not demoted]
    ready = next((event for event in events if event.state == "ready"), None)
    return DeploymentRevision(
        row.id, row.model, row.number, msgspec.convert(row.arms, tuple[Arm, ...]),
        msgspec.convert(row.settings, ServingSettings), row.action, row.reason, row.created_at, row.created_by,
        state=events[-1].state if events else "pending",
        state_reason=events[-1].reason if events else "",
        ready_at=ready.at if ready else None,
        demoted=demoted.reason if demoted else "",
    )  # fmt: skip
