"""Jobs can be paused, and go on from checkpoints; epochs are numbered over all attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OF_EARLIER_ATTEMPTS = "DELETE FROM {table} WHERE attempt < (SELECT attempt FROM jobs WHERE jobs.id = {table}.job_id)"


def upgrade() -> None:
    """Jobs can be paused, and go on from checkpoints; epochs are numbered over all attempts."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pause_requested_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("resume_fidelity", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("phases_started", sa.Integer(), nullable=False, server_default="0"))

    # What an attempt measured that was begun anew was not listed; its successor measured the same epochs.
    for table in ("checkpoints", "metrics"):
        op.execute(_OF_EARLIER_ATTEMPTS.format(table=table))

    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kind", sa.Text(), nullable=False, server_default="phase"))
        batch_op.add_column(sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("files", sa.JSON(none_as_null=True), nullable=False, server_default="[]"))
        batch_op.alter_column("artifact", existing_type=sa.JSON(none_as_null=True), nullable=True)
        batch_op.drop_constraint("uq_checkpoints_job_id_attempt_phase_index", type_="unique")
        batch_op.create_check_constraint(op.f("ck_checkpoints_kind_known"), "kind IN ('phase', 'resume')")
        batch_op.create_check_constraint(op.f("ck_checkpoints_artifact"), "(kind = 'phase') = (artifact IS NOT NULL)")
    op.execute("UPDATE checkpoints SET number = phase_index")
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.create_unique_constraint(
            op.f("uq_checkpoints_job_id_kind_attempt_number"), ["job_id", "kind", "attempt", "number"]
        )
        batch_op.create_index("ix_checkpoints_kind", ["kind", "job_id"], unique=False)

    with op.batch_alter_table("metrics", schema=None) as batch_op:
        batch_op.drop_constraint("uq_metrics_job_id_attempt_phase_index_epoch", type_="unique")
        batch_op.drop_constraint("pk_metrics", type_="primary")
        batch_op.create_primary_key(op.f("pk_metrics"), ["job_id", "number"])
        batch_op.create_unique_constraint(
            op.f("uq_metrics_job_id_phase_index_epoch"), ["job_id", "phase_index", "epoch"]
        )


def downgrade() -> None:
    """Undo it; what only the newer version can go on from is lost."""
    with op.batch_alter_table("metrics", schema=None) as batch_op:
        batch_op.drop_constraint("uq_metrics_job_id_phase_index_epoch", type_="unique")
        batch_op.drop_constraint("pk_metrics", type_="primary")
        batch_op.create_primary_key(op.f("pk_metrics"), ["job_id", "attempt", "number"])
        batch_op.create_unique_constraint(
            op.f("uq_metrics_job_id_attempt_phase_index_epoch"), ["job_id", "attempt", "phase_index", "epoch"]
        )

    op.execute("DELETE FROM checkpoints WHERE kind = 'resume'")
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.drop_index("ix_checkpoints_kind")
        batch_op.drop_constraint("uq_checkpoints_job_id_kind_attempt_number", type_="unique")
        batch_op.drop_constraint(op.f("ck_checkpoints_artifact"), type_="check")
        batch_op.drop_constraint(op.f("ck_checkpoints_kind_known"), type_="check")
        batch_op.alter_column("artifact", existing_type=sa.JSON(none_as_null=True), nullable=False)
        batch_op.create_unique_constraint(
            op.f("uq_checkpoints_job_id_attempt_phase_index"), ["job_id", "attempt", "phase_index"]
        )
        batch_op.drop_column("files")
        batch_op.drop_column("number")
        batch_op.drop_column("kind")

    # Not as a batch: on SQLite that copies the table, and others refer to its rows.
    for column in ("phases_started", "resume_fidelity", "pause_requested_at"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
