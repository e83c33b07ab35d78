"""Jobs that a full disk has set aside are resumed by workers; events of jobs that ended long ago are compacted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SET_ASIDE = "UPDATE jobs SET resume_at = 0 WHERE status = 'paused' AND pause_requested_at IS NULL"
_FEW = {
    "ix_jobs_deadlines": ("deadline_at", "deadline_at IS NOT NULL AND finished_at IS NULL"),
    "ix_jobs_aside": ("resume_at", "resume_at IS NOT NULL"),
    "ix_jobs_compaction": ("finished_at", "events_compacted_at IS NULL AND finished_at IS NOT NULL"),
}
"""Indexes of those jobs alone that a sweeper may have to look at."""


def upgrade() -> None:
    """What nobody has paused was set aside: it is resumed as soon as a worker has room."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resume_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("times_full", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("events_compacted_at", sa.Double(), nullable=True))
    op.execute(_SET_ASIDE)
    op.drop_index("ix_jobs_deadlines", table_name="jobs")
    for name, (column, condition) in _FEW.items():
        where = sa.text(condition)
        op.create_index(name, "jobs", [column], unique=False, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Jobs that were set aside wait for a person again; what was compacted stays so."""
    for name in _FEW:
        op.drop_index(name, table_name="jobs")
    op.create_index("ix_jobs_deadlines", "jobs", ["status", "deadline_at"], unique=False)
    # Not as a batch: on SQLite that copies the table, and others refer to its rows.
    for column in ("events_compacted_at", "times_full", "resume_at"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
