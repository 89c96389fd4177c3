"""The registry's tables. A test compares them with the migrations.

Rows of the tables in `IMMUTABLE` never change and are never deleted; triggers on both databases hold that.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class _Time(TypeDecorator[datetime]):
    """UTC in and out. SQLite forgets the zone, and PostgreSQL answers in that of the session."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value and value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


# Not JSONB, which changes numbers and the order of keys: digests must recompute from what is stored.
_Json = JSON(none_as_null=True)
_Id = BigInteger().with_variant(Integer(), "sqlite")
# Sorted by code point on every server, whatever its language: a page's cursor is a name.
_Name = String(128).with_variant(String(128, collation="C"), "postgresql")
_Digest = String(64)


def _created() -> list[Column[object]]:
    return [
        Column("created_at", _Time(), nullable=False),
        Column("created_by", String(128), nullable=False),
    ]


datasets = Table(
    "datasets", metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Name, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    *_created(),
)  # fmt: skip

dataset_versions = Table(
    "dataset_versions", metadata,
    Column("id", _Id, primary_key=True),
    Column("dataset_id", _Id, ForeignKey("datasets.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", _Digest, nullable=False),
    Column("files", _Json, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("n_rows", BigInteger),
    Column("schema", _Json),
    Column("source", _Json),
    *_created(),
    UniqueConstraint("dataset_id", "digest"),
    UniqueConstraint("dataset_id", "number"),
)  # fmt: skip

models = Table(
    "models", metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Name, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    *_created(),
)  # fmt: skip

experiments = Table(
    "experiments", metadata,
    Column("id", _Id, primary_key=True),
    Column("experiment_id", String(32), nullable=False, unique=True),
    Column("dataset_version_id", _Id, ForeignKey("dataset_versions.id"), nullable=False),
    Column("model_id", _Id, ForeignKey("models.id"), nullable=False),
    Column("spec", _Json, nullable=False),
    Column("spec_digest", _Digest, nullable=False),
    *_created(),
    Index("ix_experiments_model_id", "model_id"),
)  # fmt: skip

model_versions = Table(
    "model_versions", metadata,
    Column("id", _Id, primary_key=True),
    Column("model_id", _Id, ForeignKey("models.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", _Digest, nullable=False),
    Column("files", _Json, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("runtime", String(64), nullable=False),
    Column("platform", String(64), nullable=False),
    Column("signature", _Json, nullable=False),
    Column("spec", _Json, nullable=False),
    *_created(),
    UniqueConstraint("model_id", "digest"),
    UniqueConstraint("model_id", "number"),
)  # fmt: skip

trainings = Table(
    "trainings", metadata,
    Column("id", _Id, primary_key=True),
    Column("experiment_id", String(32), ForeignKey("experiments.experiment_id"), nullable=False),
    Column("model_version_id", _Id, ForeignKey("model_versions.id"), nullable=False),
    Column("metrics", _Json, nullable=False),
    *_created(),
    Index("ix_trainings_experiment_id", "experiment_id"),
    Index("ix_trainings_model_version_id", "model_version_id"),
)  # fmt: skip

deployment_revisions = Table(
    "deployment_revisions", metadata,
    Column("id", _Id, primary_key=True),
    Column("model_id", _Id, ForeignKey("models.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("arms", _Json, nullable=False),
    Column("settings", _Json, nullable=False),
    Column("action", String(16), nullable=False),
    Column("copied_from", _Id, ForeignKey("deployment_revisions.id")),
    Column("reason", Text, nullable=False),
    *_created(),
    UniqueConstraint("model_id", "number"),
    sqlite_autoincrement=True,
)  # fmt: skip

deployment_events = Table(
    "deployment_events", metadata,
    Column("id", _Id, primary_key=True),
    Column("revision_id", _Id, ForeignKey("deployment_revisions.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", _Time(), nullable=False),
    Index("ix_deployment_events_revision_id", "revision_id"),
)  # fmt: skip

alias_events = Table(
    "alias_events", metadata,
    Column("id", _Id, primary_key=True),
    Column("model_id", _Id, ForeignKey("models.id"), nullable=False),
    Column("alias", _Name, nullable=False),
    Column("from_version", Integer),
    Column("to_version", Integer),
    Column("reason", Text, nullable=False),
    Column("at", _Time(), nullable=False),
    Column("by", String(128), nullable=False),
    Index("ix_alias_events_model_id", "model_id", "alias"),
)  # fmt: skip

audit_log = Table(
    "audit_log", metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("at", _Time(), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("entity", String(300), nullable=False),
    Column("detail", _Json, nullable=False),
    Column("prev_hash", _Digest, nullable=False),
    Column("hash", _Digest, nullable=False),
)  # fmt: skip


def _measurements(name: str, content: str) -> Table:
    """Evidence about an artifact's bytes on a machine, whichever models they are a version of."""
    return Table(
        name, metadata,
        Column("id", _Id, primary_key=True),
        Column("digest", _Digest, nullable=False),
        Column("machine", String(300), nullable=False),
        Column(content, _Json, nullable=False),
        *_created(),
        Index(f"ix_{name}_digest", "digest"),
    )  # fmt: skip


calibrations = _measurements("calibrations", "measured")
profiles = _measurements("profiles", "curves")

IMMUTABLE = (
    "dataset_versions", "experiments", "model_versions", "trainings",
    "deployment_revisions", "deployment_events", "alias_events", "audit_log", "calibrations", "profiles",
)  # fmt: skip
