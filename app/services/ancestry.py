"""Ancestry, from the rows of jobs, models, datasets and checkpoints; of what was deleted since, what jobs have kept."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain import names
from app.domain.ancestry import Ancestor, Ancestry, FirstSource, Way, digest_of
from app.domain.job import Job
from app.domain.model import Model
from app.storage import checkpoints, datasets, jobs, models

MAX_GENERATIONS = 100
"""Of jobs on jobs; nobody reads further."""


@dataclass(frozen=True)
class _Step:
    """From a job to the one that its weights come from."""

    way: Way
    job: str
    checkpoint: str | None = None


def of(session: Session, project: str, job: Job) -> Ancestry:
    """Where this job comes from."""
    ancestors: list[Ancestor] = []
    child, model = job, models.find(session, project, job.model_id)
    while len(ancestors) < MAX_GENERATIONS:
        step = _step(session, project, child, model)
        parent = None if step is None else jobs.find(session, project, step.job)
        if step is None or parent is None:
            break
        ancestors.append(_ancestor(session, project, step, parent, model_digest=_digest(child, model)))
        child, model = parent, models.find(session, project, parent.model_id)
    return Ancestry(
        job=job.id,
        retry_of=_retried(session, project, job),
        ancestors=ancestors,
        first_source=_first(child, model),
    )


def _step(session: Session, project: str, job: Job, model: Model | None) -> _Step | None:
    """`None`: no job has made what it began with."""
    if job.forked_from is not None:
        return _Step("fork", job.forked_from.job, job.forked_from.checkpoint)
    if model is not None:
        return _made_by_job(model)
    # Deleted since; what was asked for still says what it was, if it was no model's own id.
    if job.model.startswith("ftjob-"):
        return _Step("result", job.model)
    found = checkpoints.find(session, project, job.model) if names.is_checkpoint(job.model) else None
    return None if found is None else _Step("checkpoint", found.job_id, found.id)


def _made_by_job(model: Model) -> _Step | None:
    if model.job_id is None:
        return None
    if model.reference is not None:
        return _Step("checkpoint", model.job_id, model.reference)
    return _Step("result", model.job_id)


def _ancestor(session: Session, project: str, step: _Step, parent: Job, *, model_digest: str | None) -> Ancestor:
    checkpoint = None if step.checkpoint is None else checkpoints.find(session, project, step.checkpoint)
    artifact = None if checkpoint is None else checkpoint.artifact
    dataset = datasets.find(session, project, parent.dataset_id)
    known = dataset.info.digest if dataset and dataset.info else None
    return Ancestor(
        job=parent.id,
        way=step.way,
        checkpoint=step.checkpoint,
        phase=None if checkpoint is None else checkpoint.phase.name,
        weights_sha256=None if artifact is None else artifact.sha256,
        model_digest=model_digest,
        dataset_digest=parent.report.dataset_digest if parent.report else known,
        spec_sha256=digest_of(parent.spec),
    )


def _digest(job: Job, model: Model | None) -> str | None:
    """Of the model that a job began with: as the job itself has found it, or as it was registered."""
    if job.report is not None:
        return job.report.source.model_digest_before
    return model.info.digest if model and model.info else None


def _first(job: Job, model: Model | None) -> FirstSource:
    """Of the oldest job that is known."""
    origin = None if model is None else model.reference or model.file_id
    return FirstSource(
        model=job.model_id,
        name=None if model is None else model.name,
        origin=origin or (job.model if job.model != job.model_id else None),
        digest=_digest(job, model),
    )


def _retried(session: Session, project: str, job: Job) -> list[str]:
    found: list[str] = []
    before: Job | None = job
    while before is not None and before.retry_of is not None and len(found) < MAX_GENERATIONS:
        found.append(before.retry_of)
        before = jobs.find(session, project, before.retry_of)
    return found
