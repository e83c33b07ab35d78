"""Jobs that Thaw itself has paused, because a disk was full: why, and until when they wait.

running --no room--> paused, `resume_at` --the wait is over, a worker has room--> queued
                        └── somebody pauses it, too: it waits for a person from then on
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, case, select
from sqlalchemy.orm import Session

from app.domain.errors import Failure
from app.storage import events
from app.storage.database import now, time_of
from app.storage.events import News
from app.storage.leases import Overdue
from app.storage.tables import JobRow

STORAGE_FULL = "storage_full"
"""The type of the event that tells why a job was set aside."""


def waiting(seconds: float) -> Mapping[str, Any]:
    """What a job gets that is set aside for so long; one that somebody wants paused waits for a person."""
    until = case((JobRow.pause_requested_at.is_(None), now() + seconds), else_=None)
    return {"resume_at": until, "times_full": JobRow.times_full + 1}


def waited() -> list[ColumnElement[bool]]:
    """The wait of a paused job is over, and nobody has paused it besides."""
    return [JobRow.pause_requested_at.is_(None), JobRow.resume_at <= now()]


def due(session: Session, *, limit: int) -> list[Overdue]:
    """Jobs of all projects whose wait is over, the longest first, for the sweeper."""
    at = time_of(session)  # as a value: PostgreSQL finds nothing in an index by a clock that moves
    statement = (
        select(JobRow.project, JobRow.id, JobRow.attempt)
        .where(JobRow.status == "paused", JobRow.pause_requested_at.is_(None), JobRow.resume_at <= at)
        .order_by(JobRow.resume_at, JobRow.id)
    )
    return [Overdue(*found) for found in session.execute(statement.limit(limit)).all()]


def keep(session: Session, row: JobRow) -> None:
    """Somebody pauses it: from now on it waits for a person. The row is held by this transaction."""
    if row.pause_requested_at is None:
        row.updated_at = row.pause_requested_at = time_of(session)
        row.resume_at = None
        events.append(session, row, [News("message", "Pausing was asked for; the job waits until it is resumed.")])


def why(session: Session, row: JobRow) -> Failure | None:
    """Why the job was set aside; `None`: it was not, or somebody paused it."""
    if row.status != "paused" or row.pause_requested_at is not None:
        return None
    told = events.newest_of_type(session, row.project, row.id, STORAGE_FULL, limit=1)
    return Failure.model_validate(told[0].data["error"]) if told else None
