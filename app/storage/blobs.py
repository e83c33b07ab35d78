"""Which blobs of the artifact store the rows of the database refer to, of all projects."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.domain.states import TERMINAL
from app.storage.tables import CheckpointRow, DatasetRow, FileRow, JobRow, ModelRow, UploadPartRow, UploadRow

COLUMNS: tuple[InstrumentedAttribute[Any], ...] = (
    FileRow.blob,
    UploadPartRow.sealed,
    ModelRow.canonical,
    ModelRow.download,
    DatasetRow.canonical,
    JobRow.artifacts,
    CheckpointRow.artifact,
    CheckpointRow.files,
)
"""Every column with blobs: one, or a list of them. A test holds this to what rows really have."""
IRREPLACEABLE = tuple(column for column in COLUMNS if column is not CheckpointRow.files)
"""All but what jobs go on from: those have another checkpoint, or begin anew."""
ROWS_AT_ONCE = 1000


def referred(session: Session) -> dict[str, int]:
    """The sha256 and the size in bytes of every blob that some row needs."""
    return dict(each_referred(session))


def irreplaceable(session: Session) -> set[str]:
    """The sha256 of those that more than going on from a checkpoint needs."""
    return {sha256 for sha256, _ in each_referred(session, IRREPLACEABLE)}


def each_referred(
    session: Session, columns: Sequence[InstrumentedAttribute[Any]] = COLUMNS
) -> Iterator[tuple[str, int]]:
    """Likewise, one after the other; a blob comes as often as a row needs it. There may be millions."""
    for column in columns:
        statement = select(column).where(*_needed(column)).execution_options(yield_per=ROWS_AT_ONCE)
        for value in session.scalars(statement):
            yield from ((blob["sha256"], blob["bytes"]) for blob in _listed(value))


def _needed(column: InstrumentedAttribute[Any]) -> list[ColumnElement[bool]]:
    """What goes with the end of an upload or a job is needed no longer, although its row may stay for a moment."""
    if column is UploadPartRow.sealed:
        return [UploadPartRow.upload_id.in_(select(UploadRow.id).where(UploadRow.status == "pending"))]
    if column is CheckpointRow.files:
        ended = CheckpointRow.job_id.in_(select(JobRow.id).where(JobRow.status.in_(TERMINAL)))
        return [column.is_not(None), ~and_(CheckpointRow.kind == "resume", ended)]
    return [column.is_not(None)]


def _listed(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 (JSON)
    yield from value if isinstance(value, list) else [value]
