"""Files may arrive in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two tables more; nothing else changes."""
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("completed_with", sa.Text(), nullable=True),
        sa.Column("file_id", sa.Text(), nullable=True),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name=op.f("ck_uploads_file")),
        sa.CheckConstraint(
            "status IN ('pending', 'completed', 'cancelled', 'expired')", name=op.f("ck_uploads_status_known")
        ),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_uploads_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.create_index("ix_uploads_expiry", ["status", "expires_at"], unique=False)
        batch_op.create_index("ix_uploads_page", ["project", "created_at", "id"], unique=False)
        batch_op.create_index("ix_uploads_sha256_page", ["project", "sha256", "created_at", "id"], unique=False)
        batch_op.create_index("ix_uploads_status_page", ["project", "status", "created_at", "id"], unique=False)

    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_upload_parts_project")),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_parts")),
        sa.UniqueConstraint("upload_id", "number", name=op.f("uq_upload_parts_upload_id_number")),
    )


def downgrade() -> None:
    """Forget what is on its way; the files that uploads have become stay."""
    op.drop_table("upload_parts")
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_index("ix_uploads_status_page")
        batch_op.drop_index("ix_uploads_sha256_page")
        batch_op.drop_index("ix_uploads_page")
        batch_op.drop_index("ix_uploads_expiry")

    op.drop_table("uploads")
