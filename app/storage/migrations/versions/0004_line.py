"""Jobs stand in a line by priority and API key, have budgets and deadlines, and know what they were made from."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ADDED = (
    "forked_from",
    "retry_of",
    "run_seconds",
    "attempt_started_at",
    "deadline_at",
    "max_seconds",
    "priority",
    "api_key_id",
)


def upgrade() -> None:
    """Jobs of before have the normal priority and no key; the time that they have run is not known, and counts 0."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("api_key_id", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("max_seconds", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("deadline_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("attempt_started_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("run_seconds", sa.Double(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("retry_of", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("forked_from", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index("ix_jobs_line", ["status", "priority", "api_key_id", "created_at", "id"], unique=False)
        batch_op.create_index("ix_jobs_deadlines", ["status", "deadline_at"], unique=False)


def downgrade() -> None:
    """Forget it; all jobs stand in one line again."""
    op.drop_index("ix_jobs_deadlines", table_name="jobs")
    op.drop_index("ix_jobs_line", table_name="jobs")
    # Not as a batch: on SQLite that copies the table, and others refer to its rows.
    for column in _ADDED:
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
