"""Compaction: of a job that ended long ago, the events of single epochs make room for one that stands for them.

    1 status   2 phase   3 metrics   4 metrics … 41 metrics                   42 phase   43 completed
    1 status   2 phase                           41 compacted {3 … 41}        42 phase   43 completed

Nothing is lost: `metrics` holds the same figures, one row for each epoch. Numbers keep their values. The event that
stands for others has the number of the last of them, so that whoever goes on behind any of them is told of it.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.domain.states import TERMINAL
from app.storage import leases
from app.storage.database import time_of
from app.storage.leases import Overdue
from app.storage.tables import EventRow, JobRow

PROGRESS = "metrics"
"""The type of the events that go."""
COMPACTED = "compacted"
"""The type of the event that stands for them."""


def due(session: Session, *, after_seconds: float, limit: int) -> list[Overdue]:
    """Jobs of all projects that ended so long ago and still have all of their events, the oldest first."""
    before = time_of(session) - after_seconds
    statement = (
        select(JobRow.project, JobRow.id, JobRow.attempt)
        .where(JobRow.events_compacted_at.is_(None), JobRow.finished_at <= before)
        .order_by(JobRow.finished_at, JobRow.id)
    )
    return [Overdue(*found) for found in session.execute(statement.limit(limit)).all()]


def compact(session: Session, project: str, job_id: str, *, limit: int) -> int:
    """Let the first `limit` of a job's events make room, if it has ended; how many did. Fewer: all of them have."""
    row = leases.lock(session, JobRow, project, job_id)
    if row is None or row.status not in TERMINAL or row.events_compacted_at is not None:
        return 0
    of_job = (EventRow.project == project, EventRow.job_id == job_id)
    found = select(EventRow.number).where(*of_job, EventRow.type == PROGRESS).order_by(EventRow.number).limit(limit)
    numbers = session.scalars(found).all()
    for first, last in _runs(numbers):
        session.execute(delete(EventRow).where(*of_job, EventRow.number >= first, EventRow.number < last))
        standing = {"type": COMPACTED, "message": _message(first, last), "data": {"first": first, "last": last}}
        session.execute(update(EventRow).where(*of_job, EventRow.number == last).values(standing))
    if len(numbers) < limit:
        row.events_compacted_at = time_of(session)
    return len(numbers)


def _runs(numbers: Sequence[int]) -> Iterable[tuple[int, int]]:
    """First and last of each row of numbers without a gap."""
    for _, run in groupby(enumerate(numbers), key=lambda each: each[1] - each[0]):
        found = [number for _, number in run]
        yield found[0], found[-1]


def _message(first: int, last: int) -> str:
    which = f"Event {first}, which told" if first == last else f"The events {first} to {last}, which told"
    return f"{which} of single epochs, made room; the job's metrics have their figures."
