"""What a job has told: events, metrics, checkpoints.

Events are of the job and go on over all its attempts. Metrics and checkpoints are of the last attempt that began:
one that was lost began with the first phase again, and its successor measures the same epochs anew.
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
        attempt = jobs.attempt_of(session, project, job_id)
        if attempt is None:
            raise unknown_job(job_id)
        return checkpoint_rows.page(session, project, job_id, query, attempt=attempt)


def metrics(services: Services, project: str, job_id: str, query: PageQuery) -> Page[EpochMetrics]:
    """One page of the epochs; `query.after` is an epoch's number. Raises `NotFoundError`, `InvalidRequestError`."""
    with services.db.read() as session:
        attempt = jobs.attempt_of(session, project, job_id)
        if attempt is None:
            raise unknown_job(job_id)
        return metric_rows.page(session, project, job_id, query, attempt=attempt)
