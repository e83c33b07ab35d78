"""Alembic's entry: runs the migrations on the connection that `app.storage.database.upgrade` hands over.

A developer makes a new revision with `python -m app.storage.migrations "what changes"`.
"""

from typing import Literal

from alembic import context

from app.storage.columns import Words
from app.storage.tables import METADATA


def render(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write our own type as what it is in the database, so that migrations never depend on it."""
    return "sa.Text()" if kind == "type" and isinstance(item, Words) else False


# render_as_batch: SQLite can change most things about a table only by copying it.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    compare_type=True,
    render_item=render,
)
with context.begin_transaction():
    context.run_migrations()
