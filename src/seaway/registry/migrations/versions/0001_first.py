"""The first tables, and the triggers that keep committed rows as they are."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Json = sa.JSON(none_as_null=True)
_Name = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")

IMMUTABLE = (
    "dataset_versions", "experiments", "model_versions", "trainings",
    "deployment_revisions", "deployment_events", "alias_events", "audit_log",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", _Id, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=300), nullable=False),
        sa.Column("detail", _Json, nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", _Id, nullable=False),
        sa.Column("name", _Name, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "models",
        sa.Column("id", _Id, nullable=False),
        sa.Column("name", _Name, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_table(
        "alias_events",
        sa.Column("id", _Id, nullable=False),
        sa.Column("model_id", _Id, nullable=False),
        sa.Column("alias", _Name, nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("to_version", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_alias_events_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_events")),
    )
    op.create_index("ix_alias_events_model_id", "alias_events", ["model_id", "alias"], unique=False)
    op.create_table(
        "dataset_versions",
        sa.Column("id", _Id, nullable=False),
        sa.Column("dataset_id", _Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("files", _Json, nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("n_rows", sa.BigInteger(), nullable=True),
        sa.Column("schema", _Json, nullable=True),
        sa.Column("source", _Json, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_versions_dataset_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("dataset_id", "digest", name=op.f("uq_dataset_versions_dataset_id_digest")),
        sa.UniqueConstraint("dataset_id", "number", name=op.f("uq_dataset_versions_dataset_id_number")),
    )
    op.create_table(
        "deployment_revisions",
        sa.Column("id", _Id, nullable=False),
        sa.Column("model_id", _Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("arms", _Json, nullable=False),
        sa.Column("settings", _Json, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("copied_from", _Id, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["copied_from"], ["deployment_revisions.id"], name=op.f("fk_deployment_revisions_copied_from")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_deployment_revisions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_revisions")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_deployment_revisions_model_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "model_versions",
        sa.Column("id", _Id, nullable=False),
        sa.Column("model_id", _Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("files", _Json, nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("runtime", sa.String(length=64), nullable=False),
        sa.Column("platform", sa.String(length=64), nullable=False),
        sa.Column("signature", _Json, nullable=False),
        sa.Column("spec", _Json, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_versions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model_id", "digest", name=op.f("uq_model_versions_model_id_digest")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_model_versions_model_id_number")),
    )
    op.create_table(
        "deployment_events",
        sa.Column("id", _Id, nullable=False),
        sa.Column("revision_id", _Id, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["deployment_revisions.id"], name=op.f("fk_deployment_events_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_events")),
    )
    op.create_index("ix_deployment_events_revision_id", "deployment_events", ["revision_id"], unique=False)
    op.create_table(
        "experiments",
        sa.Column("id", _Id, nullable=False),
        sa.Column("experiment_id", sa.String(length=32), nullable=False),
        sa.Column("dataset_version_id", _Id, nullable=False),
        sa.Column("model_id", _Id, nullable=False),
        sa.Column("spec", _Json, nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_experiments_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_experiments_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("experiment_id", name=op.f("uq_experiments_experiment_id")),
    )
    op.create_index("ix_experiments_model_id", "experiments", ["model_id"], unique=False)
    op.create_table(
        "trainings",
        sa.Column("id", _Id, nullable=False),
        sa.Column("experiment_id", sa.String(length=32), nullable=False),
        sa.Column("model_version_id", _Id, nullable=False),
        sa.Column("metrics", _Json, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.experiment_id"], name=op.f("fk_trainings_experiment_id")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_trainings_model_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trainings")),
    )
    op.create_index("ix_trainings_experiment_id", "trainings", ["experiment_id"], unique=False)
    op.create_index("ix_trainings_model_version_id", "trainings", ["model_version_id"], unique=False)
    _make_immutable()


def _make_immutable() -> None:
    if op.get_bind().dialect.name != "postgresql":
        for table in IMMUTABLE:
            for change in ("update", "delete"):
                op.execute(
                    f"create trigger {table}_no_{change} before {change} on {table} begin "
                    f"select raise(abort, 'rows of {table} never change'); end"
                )
        return
    op.execute(
        "create function seaway_immutable() returns trigger language plpgsql as $$ begin "
        "raise exception 'rows of % never change', TG_TABLE_NAME; end $$"
    )
    for table in IMMUTABLE:
        # TRUNCATE is no DELETE: it has a trigger of its own, and no rows.
        for change, each in (("update", "row"), ("delete", "row"), ("truncate", "statement")):
            op.execute(
                f"create trigger {table}_no_{change} before {change} on {table} "
                f"for each {each} execute function seaway_immutable()"
            )
