"""Events: a job's history, numbered from 1 without gaps (`app.storage.compaction` tells of those that it makes).

The counter stands on the job's row. Whoever appends holds that row (a statement before has changed it in the same
transaction), so that two writers never take the same number and no number is skipped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.ids import event_id, event_number
from app.domain.job import Event
from app.domain.progress import Level
from app.storage.paging import Page, PageQuery, cut_to, in_order, unknown_after
from app.storage.tables import EventRow, JobRow

MAX_NUMBER = 2**31
"""What the column holds."""


@dataclass(frozen=True)
class News:
    """An event that has no number yet."""

    type: str
    message: str
    level: Level = "info"
    data: Mapping[str, object] = field(default_factory=dict)


def append(session: Session, job: JobRow, news: Iterable[News]) -> None:
    """Write events to the history of a job whose row this transaction holds, at the time of the row's last change."""
    for each in news:
        job.event_count += 1
        session.add(
            EventRow(
                project=job.project,
                job_id=job.id,
                number=job.event_count,
                created_at=job.updated_at,
                level=each.level,
                type=each.type,
                message=each.message,
                data=dict(each.data),
            )
        )
    session.flush()


def since(session: Session, project: str, job_id: str, *, after_number: int, limit: int) -> list[Event]:
    """The events behind this number, in order."""
    statement = select(EventRow).where(
        EventRow.project == project, EventRow.job_id == job_id, EventRow.number > after_number
    )
    return [_event(row) for row in session.scalars(statement.order_by(EventRow.number).limit(limit))]


def newest_of_type(session: Session, project: str, job_id: str, kind: str, *, limit: int) -> list[Event]:
    """The last events of this type, the newest first."""
    statement = select(EventRow).where(EventRow.project == project, EventRow.job_id == job_id, EventRow.type == kind)
    return [_event(row) for row in session.scalars(statement.order_by(EventRow.number.desc()).limit(limit))]


def newest_numbers(session: Session, project: str, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of each job's newest event, 0 before the first; jobs that there are not are left out."""
    statement = select(JobRow.id, JobRow.event_count).where(JobRow.project == project, JobRow.id.in_(job_ids))
    found = session.execute(statement.order_by(JobRow.id).limit(len(job_ids)))
    return {row.id: row.event_count for row in found}


def page(session: Session, project: str, job_id: str, query: PageQuery) -> Page[Event]:
    """One page of a job's events. Raises `InvalidRequestError` if `query.after` is none of them."""
    statement = select(EventRow).where(EventRow.project == project, EventRow.job_id == job_id)
    if query.after is not None:
        number = _number(session, project, job_id, query.after)
        statement = statement.where(EventRow.number > number if query.order == "asc" else EventRow.number < number)
    statement = statement.order_by(*in_order((EventRow.number,), query.order)).limit(query.limit + 1)
    return cut_to(query, [_event(row) for row in session.scalars(statement)])


def _number(session: Session, project: str, job_id: str, after: str) -> int:
    number = event_number(after)
    if number is None or not 0 < number < MAX_NUMBER or event_id(job_id, number) != after:
        raise unknown_after(after)
    if not since(session, project, job_id, after_number=number - 1, limit=1):
        raise unknown_after(after)
    return number


def _event(row: EventRow) -> Event:
    return Event(
        job_id=row.job_id,
        number=row.number,
        created_at=row.created_at,
        level=row.level,
        type=row.type,
        message=row.message,
        data=row.data,
    )
