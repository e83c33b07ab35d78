"""Retry and fork: new jobs of earlier ones. What has ended stays as it ended; the new job says where it comes from."""

from sqlalchemy.orm import Session

from app.domain.adjusting import as_sent
from app.domain.again import ForkRequest, RetryRequest, forked
from app.domain.errors import FieldProblem, InvalidStateTransitionError, UserError
from app.domain.job import Checkpoint, ForkedFrom, Job, JobRequest
from app.domain.spec import preset_of
from app.domain.states import allowed_actions
from app.services import checks, drafts, references
from app.services.context import Services
from app.services.drafts import NOBODY, Draft
from app.services.jobs import impossible, unknown_job
from app.services.references import References
from app.services.ringing import ring
from app.storage import assets, checkpoints, jobs, models
from app.storage.tables import DatasetRow, ModelRow

# === Retry ===


def retry(services: Services, project: str, identifier: str, wanted: RetryRequest, *, api_key_id: str = NOBODY) -> Job:
    """A new job with the spec and seed of one that failed or was cancelled.

    It uses the very model and dataset of the first one where they can be used; what could not is made again of what was
    requested. Raises `NotFoundError`, `InvalidStateTransitionError`, and `InvalidRequestError` for what is gone.
    """
    with services.db.begin() as session:
        job = _job(session, project, identifier)
        if "retry" not in allowed_actions(job.status):
            raise impossible(job, "tried again")
        found = _same(session, project, job)
        drafts.refuse(job.spec, found, drafts.late(session, wanted.deadline_at))
        made, hints = drafts.enter(session, project, _repeated(job, wanted), found, api_key_id=api_key_id)
    ring(services, hints)
    return made


def _same(session: Session, project: str, job: Job) -> References:
    """What the job used; references that mean something new today (a branch of a hub) still mean what they meant."""
    model, dataset = (
        assets.hold(session, ModelRow, project, job.model_id),
        assets.hold(session, DatasetRow, project, job.dataset_id),
    )
    # An id stands for itself, whatever became of it; a file or name whose check failed is checked again.
    request = JobRequest(
        model=job.model if model is None or model.status == "failed" else job.model_id,
        training_file=job.training_file if dataset is None or dataset.status == "failed" else job.dataset_id,
    )
    return references.find(session, project, request)


def _repeated(job: Job, wanted: RetryRequest) -> Draft:
    return Draft(
        model=job.model,
        training_file=job.training_file,
        spec=as_sent(job.spec),
        suffix=job.suffix,
        metadata=job.metadata,
        priority=wanted.priority or job.priority,
        max_seconds=wanted.max_seconds or job.max_seconds,
        deadline_at=wanted.deadline_at,
        retry_of=job.id,
        forked_from=job.forked_from,
    )


# === Fork ===


def fork(services: Services, project: str, identifier: str, wanted: ForkRequest, *, api_key_id: str = NOBODY) -> Job:
    """A new job that starts from weights of this one, and goes on as wanted.

    Raises `NotFoundError`; `InvalidStateTransitionError` if there are none yet; `InvalidRequestError` with every
    wrong field.
    """
    with services.db.begin() as session:
        job = _job(session, project, identifier)
        checkpoint = _start(session, project, job, wanted)
        start = JobRequest(model=checkpoint.id, training_file=wanted.training_file or job.dataset_id)
        found = references.find(session, project, start)
        try:
            request = forked(job, checkpoint, wanted, source=models.layers(session, project, job.model_id))
        except UserError as error:
            problem = FieldProblem(pointer=f"/{error.param}", code=error.work_code, message=error.message)
            raise checks.refusal([*found.problems, problem]) from error
        drafts.refuse(request, found, [*drafts.late(session, request.deadline_at), *_from_scratch(request)])
        origin = ForkedFrom(job=job.id, checkpoint=checkpoint.id)
        draft = drafts.of(request, forked_from=origin)
        made, hints = drafts.enter(session, project, draft, found, api_key_id=api_key_id)
    ring(services, hints)
    return made


def _start(session: Session, project: str, job: Job, wanted: ForkRequest) -> Checkpoint:
    """The checkpoint that is meant. Raises `InvalidStateTransitionError` and `InvalidRequestError`."""
    newest = checkpoints.newest_weights(session, project, job.id)
    kept = checkpoints.weights_of(session, project, job.id)
    if wanted.checkpoint is not None and kept:
        return _named(job, {each.id: each for each in kept}, "checkpoint", wanted.checkpoint)
    if newest is None:
        allowed = [action for action in allowed_actions(job.status) if action != "fork"]
        message = (
            f"Job '{job.id}' is '{job.status}', and none of its phases has ended: there are no weights to start from. "
            f"Possible now: {', '.join(allowed) or 'nothing'}."
        )
        raise InvalidStateTransitionError(message, status=job.status, allowed_actions=allowed)
    if wanted.after_phase is not None:
        ended = {each.phase.name: each for each in kept if each.within is None}
        return _named(job, ended, "after_phase", wanted.after_phase)
    return newest


def _named(job: Job, kept: dict[str, Checkpoint], field: str, value: str) -> Checkpoint:
    if value not in kept:
        what = "weights" if field == "checkpoint" else "end of a phase"
        message = f"'{value}' names no {what} of job '{job.id}'. There are: {', '.join(kept) or 'none'}."
        problem = FieldProblem(pointer=f"/{field}", code="unknown_id", message=message, allowed=list(kept))
        raise checks.refusal([problem])
    return kept[value]


def _from_scratch(request: JobRequest) -> list[FieldProblem]:
    if preset_of(request) != "from_scratch":
        return []
    message = "The preset 'from_scratch' throws the weights away that a fork starts from. Take another schedule."
    return [FieldProblem(pointer="/schedule", code="random_weights", message=message)]


def _job(session: Session, project: str, identifier: str) -> Job:
    job = jobs.find(session, project, identifier)
    if job is None:
        raise unknown_job(identifier)
    return job
