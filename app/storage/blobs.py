"""Which blobs of the artifact store rows refer to."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.storage.tables import CheckpointRow, DatasetRow, FileRow, JobRow, ModelRow

COLUMNS: tuple[InstrumentedAttribute[Any], ...] = (
    FileRow.blob,
    ModelRow.canonical,
    ModelRow.download,
    DatasetRow.canonical,
    JobRow.artifacts,
    CheckpointRow.artifact,
    CheckpointRow.files,
)
"""Every column that holds artifacts. What a column that is left out here refers to is deleted some day: a test knows
all columns with JSON, and whether they are among these."""
_AT_ONCE = 1000


def referenced(session: Session) -> Iterator[str]:
    """sha256 of what the rows of all projects refer to, some of them often."""
    for column in COLUMNS:
        values = session.scalars(select(column).where(column.is_not(None)).execution_options(yield_per=_AT_ONCE))
        for value in values:
            for artifact in value if isinstance(value, list) else [value]:
                yield artifact["sha256"]
