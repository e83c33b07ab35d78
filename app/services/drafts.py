"""From a request to a job's row, and to those of what it still lacks. The caller's transaction, and hints to ring."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetOptions
from app.domain.errors import FieldProblem
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.job import SEEDS, Attempt, ForkedFrom, Job, JobRequest
from app.domain.model import Model, ModelOptions
from app.domain.spec import ResolvedSpec, Spec, resolve
from app.domain.states import Priority
from app.services import checks, datasets, models
from app.services.references import References
from app.services.ringing import Hint
from app.storage import jobs
from app.storage.database import time_of
from app.storage.events import News
from app.storage.tables import DatasetRow, JobRow, ModelRow

NOBODY = ""
"""The id of no API key."""


@dataclass(frozen=True)
class Draft:
    """A job before its files are found."""

    model: str
    """As requested."""
    training_file: str
    spec: ResolvedSpec
    suffix: str | None
    metadata: dict[str, str]
    priority: Priority
    max_seconds: float | None
    deadline_at: float | None
    retry_of: str | None = None
    forked_from: ForkedFrom | None = None


def of(request: JobRequest, *, forked_from: ForkedFrom | None = None) -> Draft:
    """What was asked for, in full."""
    return Draft(
        model=request.model,
        training_file=request.training_file,
        spec=resolve(request, seed=seed(request)),
        suffix=request.suffix,
        metadata=dict(request.metadata),
        priority=request.priority,
        max_seconds=request.max_seconds,
        deadline_at=request.deadline_at,
        forked_from=forked_from,
    )


def refuse(spec: Spec, found: References, more: Sequence[FieldProblem] = ()) -> None:
    """Raise `InvalidRequestError` if what was found cannot be used, or does not fit the spec."""
    model = found.model if isinstance(found.model, Model) else None
    dataset = found.dataset if isinstance(found.dataset, Dataset) else None
    checks.refuse([*found.problems, *checks.problems(spec, model, dataset), *more])


def late(session: Session, deadline_at: float | None) -> list[FieldProblem]:
    """The problem of a deadline that is over, by the database's clock."""
    at = time_of(session)
    if deadline_at is None or deadline_at > at:
        return []
    message = f"deadline_at {deadline_at:.0f} is over: it is {at:.0f} now (Unix seconds). Give a later time, or none."
    return [FieldProblem(pointer="/deadline_at", code="in_the_past", message=message)]


def enter(
    session: Session, project: str, wanted: Draft, found: References, *, api_key_id: str
) -> tuple[Job, list[Hint]]:
    """Make the job's row, and those of what it still lacks; what is to be rung after the commit."""
    model, dataset, hints = _enter_assets(session, project, found)
    job = _new_job(wanted, model, dataset, created_at=time_of(session))
    jobs.add(session, project, job, api_key_id=api_key_id, news=_created(job))
    return job, hints + ([Hint(JobRow, project, job.id)] if job.status == "queued" else [])


def _enter_assets(session: Session, project: str, found: References) -> tuple[Model, Dataset, list[Hint]]:
    """Make what is still to be made of files and names."""
    model, dataset, hints = found.model, found.dataset, []
    if isinstance(model, File | str):
        model = models.enter(session, project, model, name=None, options=ModelOptions())
        hints.append(Hint(ModelRow, project, model.id))
    if isinstance(dataset, File):
        dataset = datasets.enter(session, project, dataset, name=None, options=DatasetOptions())
        hints.append(Hint(DatasetRow, project, dataset.id))
    assert model is not None
    assert dataset is not None  # a reference to nothing was refused before
    return model, dataset, hints


def _new_job(wanted: Draft, model: Model, dataset: Dataset, *, created_at: float) -> Job:
    ready = model.status == "ready" and dataset.status == "ready"
    return Job(
        id=new_id("ftjob"),
        created_at=created_at,
        started_at=None,
        finished_at=None,
        status="queued" if ready else "validating_files",
        cancel_requested_at=None,
        pause_requested_at=None,
        **{name: getattr(wanted, name) for name in Draft.__dataclass_fields__},
        model_id=model.id,
        dataset_id=dataset.id,
        stage=None,
        stage_history=[],
        phase=None,
        progress=0.0,
        eta_seconds=None,
        attempt=Attempt(number=0, worker=None, lease_expires_at=None),
        resume_fidelity=None,
        error=None,
        result_model_id=None,
        artifacts=[],
        report=None,
        updated_at=created_at,
    )


def seed(request: JobRequest) -> int:
    """The one that was asked for, or one that is made."""
    return secrets.randbelow(SEEDS) if request.seed is None else request.seed


def _created(job: Job) -> News:
    waits_for = "a worker" if job.status == "queued" else "its files to be checked"
    origin, data = "", dict[str, object](status=job.status, attempt=0)
    if job.retry_of is not None:
        origin, data = f" as a retry of {job.retry_of}", {**data, "retry_of": job.retry_of}
    elif job.forked_from is not None:
        origin = f" as a fork of {job.forked_from.job} at {job.forked_from.checkpoint}"
        data = {**data, "forked_from": job.forked_from.model_dump()}
    return News("status", f"The job was created{origin} and waits for {waits_for}.", data=data)
