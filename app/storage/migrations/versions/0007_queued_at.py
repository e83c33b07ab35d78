"""Since when a job waits: since it joined the queue, not since it was made."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SINCE_IT_CHANGED = "UPDATE jobs SET queued_at = updated_at WHERE status = 'queued'"
_QUEUED = sa.text("queued_at IS NOT NULL")


def upgrade() -> None:
    """Jobs that wait already do so since their row changed last, which is when they came into the queue."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("queued_at", sa.Double(), nullable=True))
    op.execute(_SINCE_IT_CHANGED)
    op.create_index(
        "ix_jobs_queued", "jobs", ["queued_at"], unique=False, sqlite_where=_QUEUED, postgresql_where=_QUEUED
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_index("ix_jobs_queued", table_name="jobs")
    # Not as a batch: on SQLite that copies the table, and others refer to its rows.
    op.execute("ALTER TABLE jobs DROP COLUMN queued_at")
