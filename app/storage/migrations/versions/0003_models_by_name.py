"""Models that are registered by name."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the name, and find models by it."""
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reference", sa.Text(), nullable=True))
        batch_op.create_index("ix_models_reference", ["project", "reference"], unique=False)


def downgrade() -> None:
    """Forget the names."""
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_index("ix_models_reference")
        batch_op.drop_column("reference")
