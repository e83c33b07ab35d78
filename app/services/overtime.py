"""What jobs that took longer than they may are told: which weights there are, and what can be done with them."""

from sqlalchemy.orm import Session

from app.domain import overtime, remaining
from app.domain.errors import Failure, UserError
from app.domain.job import Checkpoint
from app.storage import checkpoints, jobs, models


def named(session: Session, project: str, job_id: str, failure: Failure) -> Failure:
    """The same failure, which names the newest weights of the job and what a fork from there needs."""
    newest = checkpoints.newest_weights(session, project, job_id)
    needs = newest is not None and _needs_schedule(session, project, job_id, newest)
    return overtime.named(failure, newest, needs_schedule=needs)


def _needs_schedule(session: Session, project: str, job_id: str, checkpoint: Checkpoint) -> bool:
    job = jobs.find(session, project, job_id)
    if job is None:
        return True
    try:
        remaining.phases(job.spec, checkpoint, models.layers(session, project, job.model_id))
    except UserError:
        return True
    return False
