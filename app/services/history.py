"""What a job has told: events, metrics, checkpoints.

All of it is of the job and goes on over all its attempts: one that goes on where another was lost, and measures an
epoch again, adds nothing.
"""

from collections.abc import Sequence

from app.domain.job import Checkpoint, EpochMetrics, Event
from app.services.context import Services
from app.services.jobs import unknown_job
from app.storage import checkpoints as checkpoint_rows
from app.storage import events as event_rows
from app.storage import jobs
from app.storage import metrics as metric_rows
from app.storage.paging import Page, PageQuery


def events(services: Services, project: str, job_id: str, query: PageQuery) -> Page[Event]:
    """One page of a job's events; `query.after` is an event's id. Raises `NotFoundError`, `InvalidRequestError`."""
    with services.db.read() as session:
        if jobs.attempt_of(session, project, job_id) is None:
            raise unknown_job(job_id)
        return event_rows.page(session, project, job_id, query)


def events_since(services: Services, project: str, job_id: str, *, after_number: int, limit: int = 500) -> list[Event]:
    """The events behind this number, in order; none for an unknown job. For streams: one cheap statement."""
    with services.db.read() as session:
        return event_rows.since(session, project, job_id, after_number=after_number, limit=limit)


def newest_numbers(services: Services, project: str, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the newest event of each of these jobs. For streams: one statement tells which have news."""
    with services.db.read() as session:
        return event_rows.newest_numbers(session, project, job_ids)


def checkpoints(services: Services, project: str, job_id: str, query: PageQuery) -> Page[Checkpoint]:
    """One page of the checkpoints. Raises `NotFoundError`, `InvalidRequestError`."""
    with services.db.read() as session:
        if jobs.attempt_of(session, project, job_id) is None:
            raise unknown_job(job_id)
        return checkpoint_rows.page(session, project, job_id, query)


def metrics(services: Services, project: str, job_id: str, query: PageQuery) -> Page[EpochMetrics]:
    """One page of the epochs; `query.after` is an epoch's number. Raises `NotFoundError`, `InvalidRequestError`."""
    with services.db.read() as session:
        if jobs.attempt_of(session, project, job_id) is None:
            raise unknown_job(job_id)
        return metric_rows.page(session, project, job_id, query)
