"""What versions cost, as measured: calibrations that deployments start with, and profiles. Appended, never changed."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from seaway.registry.database import now
from seaway.registry.rows import insert_row
from seaway.registry.tables import calibrations, profiles
from seaway.types import Calibration, Json, Profile


def add_calibration(connection: Connection, digest: str, calibration: Calibration, actor: str) -> None:
    """Keep it; the one that is the newest already is not kept twice."""
    if find_calibration(connection, digest, calibration.machine) == calibration:
        return
    values = {
        "digest": digest, "machine": calibration.machine, "measured": msgspec.to_builtins(calibration),
        "created_at": now(), "created_by": actor,
    }  # fmt: skip
    insert_row(connection, calibrations, values)


def find_calibration(connection: Connection, digest: str, machine: str) -> Calibration | None:
    """The newest of these bytes on this machine."""
    query = select(calibrations.c.measured).where(calibrations.c.digest == digest, calibrations.c.machine == machine)
    found = connection.execute(query.order_by(calibrations.c.id.desc()).limit(1)).scalar()
    return None if found is None else msgspec.convert(found, Calibration)


def find_batches(connection: Connection, digest: str) -> Calibration | None:
    """The newest calibration of these bytes that measured batches, whatever machine it is from."""
    query = select(calibrations.c.measured).where(calibrations.c.digest == digest).order_by(calibrations.c.id.desc())
    found = (msgspec.convert(measured, Calibration) for measured in connection.execute(query).scalars())
    return next((calibration for calibration in found if calibration.curve), None)


def add_profile(connection: Connection, digest: str, machine: str, curves: Json, actor: str) -> Profile:
    values = {
        "digest": digest, "machine": machine, "curves": curves, "created_at": now(), "created_by": actor,
    }  # fmt: skip
    row_id = insert_row(connection, profiles, values)
    return _profile(connection.execute(select(profiles).where(profiles.c.id == row_id)).one())


def find_profile(connection: Connection, digest: str) -> Profile | None:
    """The newest of these bytes, whatever machine it is from."""
    query = select(profiles).where(profiles.c.digest == digest).order_by(profiles.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return _profile(row) if row else None


def _profile(row: Row[Any]) -> Profile:
    return Profile(row.digest, row.machine, row.curves, row.created_at, row.created_by)
