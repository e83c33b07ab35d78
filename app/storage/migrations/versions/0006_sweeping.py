"""Jobs that were set aside because a disk was full are resumed when there is room."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

_SET_ASIDE = "UPDATE jobs SET resume_at = 0 WHERE status = 'paused' AND pause_requested_at IS NULL"
"""What nobody has paused was set aside: it is resumed as soon as there is room."""


def upgrade() -> None:
    """Jobs that were set aside before are the first to be resumed."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resume_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("times_full", sa.Integer(), nullable=False, server_default="0"))
        batch_op.create_index("ix_jobs_aside", ["status", "resume_at"], unique=False)
    op.execute(_SET_ASIDE)


def downgrade() -> None:
    """Such jobs wait for somebody to resume them again."""
    op.drop_index("ix_jobs_aside", table_name="jobs")
    # Not as a batch: on SQLite that copies the table, and others refer to its rows.
    for column in ("times_full", "resume_at"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
