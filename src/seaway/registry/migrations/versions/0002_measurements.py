"""Calibrations and profiles: what versions cost, as measured."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Json = sa.JSON(none_as_null=True)

IMMUTABLE = ("calibrations", "profiles")


def upgrade() -> None:
    for table, content in (("calibrations", "measured"), ("profiles", "curves")):
        op.create_table(
            table,
            sa.Column("id", _Id, nullable=False),
            sa.Column("digest", sa.String(length=64), nullable=False),
            sa.Column("machine", sa.String(length=300), nullable=False),
            sa.Column(content, _Json, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("created_by", sa.String(length=128), nullable=False),
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        )
        op.create_index(f"ix_{table}_digest", table, ["digest"], unique=False)
    _make_immutable()


def _make_immutable() -> None:
    """As in the first migration, whose function PostgreSQL has already."""
    for table in IMMUTABLE:
        if op.get_bind().dialect.name != "postgresql":
            for change in ("update", "delete"):
                op.execute(
                    f"create trigger {table}_no_{change} before {change} on {table} begin "
                    f"select raise(abort, 'rows of {table} never change'); end"
                )
            continue
        for change, each in (("update", "row"), ("delete", "row"), ("truncate", "statement")):
            op.execute(
                f"create trigger {table}_no_{change} before {change} on {table} "
                f"for each {each} execute function seaway_immutable()"
            )
