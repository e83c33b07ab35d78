"""Jobs: submit, plan, look up, cancel, pause, resume. `app.services.again` makes new ones of earlier ones."""

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset
from app.domain.errors import FieldProblem, InvalidStateTransitionError, NotFoundError
from app.domain.file import File
from app.domain.job import Job, JobRequest
from app.domain.model import Model
from app.domain.plan import Plan
from app.domain.spec import resolve
from app.domain.states import JobStatus, allowed_actions
from app.services import drafts, measured, planning, references, standing
from app.services.context import Services
from app.services.drafts import NOBODY
from app.services.references import References
from app.services.ringing import Hint, ring
from app.storage import aside, jobs, leases
from app.storage.database import time_of
from app.storage.paging import Page, PageQuery
from app.storage.tables import JobRow

# === Submit ===


def submit(services: Services, project: str, request: JobRequest, *, api_key_id: str = NOBODY) -> Job:
    """Create a job. Files become a model and a dataset first, while it waits in `validating_files`.

    `api_key_id` is whose share of the workers it will take. Raises `InvalidRequestError` with every wrong field:
    references to nothing or to what failed, and, as far as model and dataset are known already, illegal cuts and
    selections, and examples that the source cannot take.
    """
    with services.db.begin() as session:
        found = references.find(session, project, request)
        drafts.refuse(request, found, drafts.late(session, request.deadline_at))
        job, hints = drafts.enter(session, project, drafts.of(request), found, api_key_id=api_key_id)
    ring(services, hints)
    return job


# === Plan ===


def plan(services: Services, project: str, request: JobRequest) -> Plan:
    """Say what a job would do, and what is worth knowing before; nothing is created.

    Raises `InvalidRequestError` as `submit` does, and if the model or the dataset is not ready: then nothing can
    be said yet.
    """
    with services.db.read() as session:
        found = references.find(session, project, request)
        drafts.refuse(request, found, _not_ready(request, found))
        assert isinstance(found.model, Model)
        assert isinstance(found.dataset, Dataset)
        layout = planning.lay_out(resolve(request, seed=drafts.seed(request)), found.model, found.dataset)
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
    """One job; a queued one with its place in the line and when it may have ended. Raises `NotFoundError`."""
    with services.db.read() as session:
        job = _found(session, project, identifier)
        place = standing.find(session, project, job, settings=services.settings)
    return job.model_copy(update=place)


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
    """One page of a project's jobs, without their reports; all filters must hold.

    `model` and `dataset` take ids of models and datasets, not of the files that they came from. Raises
    `InvalidRequestError` for an unknown `after`.
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

    One that Thaw has set aside waits for a person from then on. A running job may still end if it was about to. Raises
    `NotFoundError`, and `InvalidStateTransitionError` if it has ended, or if its files are not checked yet.
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
        elif row.status == "paused":
            aside.keep(session, row)
        else:
            raise impossible(row, "paused")
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
            values = {"pause_requested_at": None, "times_full": 0, "rung_at": time_of(session)}
            news = "The job was resumed and waits for a worker."
            jobs.move(session, project, identifier, old="paused", new="queued", news=news, values=values)
            hints.append(Hint(JobRow, project, identifier))
        elif row.status in {"queued", "running"}:
            jobs.withdraw_pause(session, row)
        else:
            raise impossible(row, "resumed")
        found = _found(session, project, identifier)
    ring(services, hints)
    return found


def impossible(row: JobRow | Job, what: str) -> InvalidStateTransitionError:
    """The error for what cannot be done with a job in its status; `what`: `paused`."""
    allowed = allowed_actions(row.status)
    message = f"Job '{row.id}' cannot be {what}: its status is '{row.status}'; possible now: {', '.join(allowed)}."
    return InvalidStateTransitionError(message, status=row.status, allowed_actions=allowed)


def _found(session: Session, project: str, identifier: str) -> Job:
    job = jobs.find(session, project, identifier)
    if job is None:
        raise unknown_job(identifier)
    return job


def unknown_job(identifier: str) -> NotFoundError:
    """The error for an id that is no job of the project."""
    return NotFoundError(f"There is no job '{identifier}'. List what there is.")
