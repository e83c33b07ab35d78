"""Jobs: submit, plan, look up, cancel, pause, resume."""

import secrets
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetOptions
from app.domain.errors import FieldProblem, InvalidStateTransitionError, NotFoundError
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.job import Attempt, Job, JobRequest
from app.domain.model import Model, ModelOptions
from app.domain.plan import Plan
from app.domain.spec import resolve
from app.domain.states import JobStatus, allowed_actions
from app.services import checks, datasets, measured, models, planning, references
from app.services.context import Services
from app.services.references import References
from app.services.ringing import Hint, ring
from app.storage import jobs, leases
from app.storage.database import time_of
from app.storage.events import News
from app.storage.paging import Page, PageQuery
from app.storage.tables import DatasetRow, JobRow, ModelRow

SEEDS = 2**31

# === Submit ===


def submit(services: Services, project: str, request: JobRequest) -> Job:
    """Create a job. Files become a model and a dataset first, while it waits in `validating_files`.

    Raises `InvalidRequestError` with every wrong field: references to nothing or to what failed, and, as far as
    model and dataset are known already, illegal cuts and selections, and examples that the source cannot take.
    """
    with services.db.begin() as session:
        found = references.find(session, project, request)
        _refuse(request, found)
        model, dataset, hints = _enter_assets(session, project, found)
        job = _new_job(request, model, dataset, created_at=time_of(session))
        jobs.add(session, project, job, news=_created(job))
    ring(services, hints + ([Hint(JobRow, project, job.id)] if job.status == "queued" else []))
    return job


def _refuse(request: JobRequest, found: References, more: Sequence[FieldProblem] = ()) -> None:
    model = found.model if isinstance(found.model, Model) else None
    dataset = found.dataset if isinstance(found.dataset, Dataset) else None
    checks.refuse([*found.problems, *checks.problems(request, model, dataset), *more])


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


def _new_job(request: JobRequest, model: Model, dataset: Dataset, *, created_at: float) -> Job:
    ready = model.status == "ready" and dataset.status == "ready"
    return Job(
        id=new_id("ftjob"),
        created_at=created_at,
        started_at=None,
        finished_at=None,
        status="queued" if ready else "validating_files",
        cancel_requested_at=None,
        pause_requested_at=None,
        model=request.model,
        training_file=request.training_file,
        model_id=model.id,
        dataset_id=dataset.id,
        spec=resolve(request, seed=_seed(request)),
        suffix=request.suffix,
        metadata=dict(request.metadata),
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


def _seed(request: JobRequest) -> int:
    return secrets.randbelow(SEEDS) if request.seed is None else request.seed


def _created(job: Job) -> News:
    waits_for = "a worker" if job.status == "queued" else "its files to be checked"
    return News("status", f"The job was created and waits for {waits_for}.", data={"status": job.status, "attempt": 0})


# === Plan ===


def plan(services: Services, project: str, request: JobRequest) -> Plan:
    """Say what a job would do, and what is worth knowing before; nothing is created.

    Raises `InvalidRequestError` as `submit` does, and if the model or the dataset is not ready: then nothing can
    be said yet.
    """
    with services.db.read() as session:
        found = references.find(session, project, request)
        _refuse(request, found, _not_ready(request, found))
        assert isinstance(found.model, Model)
        assert isinstance(found.dataset, Dataset)
        layout = planning.lay_out(resolve(request, seed=_seed(request)), found.model, found.dataset)
        known = measured.find(session, project, layout, model=found.model, dataset_id=found.dataset.id)
    return planning.plan(layout, measured=known, features_bytes=services.settings.features_bytes)


def _not_ready(request: JobRequest, found: References) -> list[FieldProblem]:
    problems = []
    for pointer, name, asset in (
        ("/model", request.model, found.model),
        ("/training_file", request.training_file, found.dataset),
    ):
        if isinstance(asset, File | str):
            message = f"'{name}' was not checked yet. Register it first, or submit the job, which does that too."
            problems.append(FieldProblem(pointer=pointer, code="not_ready", message=message))
        elif asset is not None and asset.status == "validating":
            message = f"'{asset.id}' is still being checked. Ask again when its status is 'ready'."
            problems.append(FieldProblem(pointer=pointer, code="not_ready", message=message))
    return problems


# === Look up ===


def get(services: Services, project: str, identifier: str) -> Job:
    """One job, with its place in the queue. Raises `NotFoundError`."""
    with services.db.read() as session:
        job = jobs.find(session, project, identifier)
    if job is None:
        raise unknown_job(identifier)
    return job


def list_page(
    services: Services,
    project: str,
    query: PageQuery,
    *,
    status: JobStatus | None = None,
    model: str | None = None,
    dataset: str | None = None,
    metadata: dict[str, str] | None = None,
    created_after: float | None = None,
) -> Page[Job]:
    """One page of a project's jobs; all filters must hold. Raises `InvalidRequestError` for an unknown `after`.

    `model` and `dataset` take ids of models and datasets, not of the files that they came from.
    """
    with services.db.read() as session:
        return jobs.page(
            session,
            project,
            query,
            status=status,
            model=model,
            dataset=dataset,
            metadata=metadata,
            created_after=created_after,
        )


# === Cancel ===


def request_cancel(services: Services, project: str, identifier: str) -> Job:
    """Cancel a job that waits, at once; ask a running one to end. Asking again changes nothing.

    A running job may still succeed if it was about to. Raises `NotFoundError`, and `InvalidStateTransitionError`
    if it succeeded or failed before.
    """
    with services.db.begin() as session:
        row = leases.lock(session, JobRow, project, identifier)
        if row is None:
            raise unknown_job(identifier)
        if row.status in {"succeeded", "failed"}:
            message = f"Job '{identifier}' has {row.status}: there is nothing left to cancel."
            raise InvalidStateTransitionError(message, status=row.status, allowed_actions=allowed_actions(row.status))
        if row.status == "running":
            jobs.ask_to_cancel(session, row)
        elif row.status != "cancelled":
            _cancel_at_once(session, project, identifier, row.status)
        return _found(session, project, identifier)


def _cancel_at_once(session: Session, project: str, identifier: str, status: JobStatus) -> None:
    values = {"cancel_requested_at": time_of(session)}
    jobs.move(session, project, identifier, old=status, new="cancelled", news="The job was cancelled.", values=values)


# === Pause, resume ===


def request_pause(services: Services, project: str, identifier: str) -> Job:
    """Pause a job that waits, at once; ask a running one to stop with a checkpoint. Asking again changes nothing.

    A running job may still end if it was about to. Raises `NotFoundError`, and `InvalidStateTransitionError` if it
    has ended, or if its files are not checked yet.
    """
    with services.db.begin() as session:
        row = leases.lock(session, JobRow, project, identifier)
        if row is None:
            raise unknown_job(identifier)
        if row.status == "running":
            jobs.ask_to_pause(session, row)
        elif row.status == "queued":
            values = {"pause_requested_at": time_of(session)}
            jobs.move(
                session, project, identifier, old="queued", new="paused", news="The job is paused.", values=values
            )
        elif row.status != "paused":
            raise _impossible(row, "paused")
        return _found(session, project, identifier)


def resume(services: Services, project: str, identifier: str) -> Job:
    """Let a paused job wait for a worker again, which goes on where it was. Asking again changes nothing.

    A wish to pause that is not granted yet is withdrawn. Raises `NotFoundError`, and `InvalidStateTransitionError`
    if the job has ended, or never was queued.
    """
    hints: list[Hint] = []
    with services.db.begin() as session:
        row = leases.lock(session, JobRow, project, identifier)
        if row is None:
            raise unknown_job(identifier)
        if row.status == "paused":
            values = {"pause_requested_at": None, "rung_at": time_of(session)}
            news = "The job was resumed and waits for a worker."
            jobs.move(session, project, identifier, old="paused", new="queued", news=news, values=values)
            hints.append(Hint(JobRow, project, identifier))
        elif row.status in {"queued", "running"}:
            jobs.withdraw_pause(session, row)
        else:
            raise _impossible(row, "resumed")
        found = _found(session, project, identifier)
    ring(services, hints)
    return found


def _impossible(row: JobRow, what: str) -> InvalidStateTransitionError:
    allowed = allowed_actions(row.status)
    possible = f"possible now: {', '.join(allowed)}" if allowed else "it has ended"
    message = f"Job '{row.id}' cannot be {what}: its status is '{row.status}'; {possible}."
    return InvalidStateTransitionError(message, status=row.status, allowed_actions=allowed)


def _found(session: Session, project: str, identifier: str) -> Job:
    job = jobs.find(session, project, identifier)
    if job is None:
        raise unknown_job(identifier)
    return job


def unknown_job(identifier: str) -> NotFoundError:
    """The error for an id that is no job of the project."""
    return NotFoundError(f"There is no job '{identifier}'. List what there is.")
