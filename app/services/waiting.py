"""Jobs that wait in `validating_files` move on when the last of their files is decided, in the same transaction."""

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset
from app.domain.errors import Failure
from app.domain.job import Job
from app.domain.model import Model
from app.services import checks
from app.services.ringing import Hint
from app.storage import datasets, jobs, models
from app.storage.database import now
from app.storage.rows import dumped
from app.storage.tables import JobRow


def move_on(session: Session, project: str, asset_id: str) -> list[Hint]:
    """Decide on every job that waits for this model or dataset; what is to be rung after the commit."""
    return [
        hint
        for job_id in jobs.hold_waiting_for(session, project, asset_id)
        for hint in decide(session, project, job_id)
    ]


def decide(session: Session, project: str, job_id: str) -> list[Hint]:
    """Queue the job if its files are ready and fit its spec, fail it if they cannot be used, else leave it.

    The caller holds the job's row. Of two workers that finish its model and its dataset at the same time, the
    second one to hold the row sees what the first has done.
    """
    job = jobs.find(session, project, job_id)
    if job is None or job.status != "validating_files":
        return []
    model, dataset = models.find(session, project, job.model_id), datasets.find(session, project, job.dataset_id)
    failure = _unusable("model", job.model, model) or _unusable("training_file", job.training_file, dataset)
    if failure is None and not (model and model.info and dataset and dataset.info):
        return []
    failure = failure or _unfit(job, model, dataset)
    if failure is not None:
        _fail(session, project, job, failure)
        return []
    return _queue(session, project, job)


def _queue(session: Session, project: str, job: Job) -> list[Hint]:
    moved = jobs.move(
        session,
        project,
        job.id,
        old="validating_files",
        new="queued",
        news="The files are ready; the job waits for a worker.",
        values={"rung_at": now()},
    )
    return [] if moved is None else [Hint(JobRow, project, job.id)]


def _fail(session: Session, project: str, job: Job, failure: Failure) -> None:
    values = {"error": dumped(failure)}
    jobs.move(session, project, job.id, old="validating_files", new="failed", news=failure.message, values=values)


def _unusable(field: str, asked_for: str, asset: Model | Dataset | None) -> Failure | None:
    """The failure of a job whose model or dataset failed; it is as much the user's fault as that was."""
    if asset is None:
        return gone(field, asked_for)
    if asset.error is None:
        return None
    message = f"'{asked_for}', which `{field}` names, cannot be used: {asset.error.message}"
    return asset.error.model_copy(update={"message": message, "param": field})


def gone(field: str, asked_for: str) -> Failure:
    """The failure of a job whose model or dataset is not there any more, though nobody may delete it meanwhile."""
    message = (
        f"'{asked_for}', which `{field}` names, or what was made of it, is gone. Submit the job again if it is still "
        "there, else with another one."
    )
    return Failure(error_class="user", code="unusable_file", message=message, param=field)


def _unfit(job: Job, model: Model | None, dataset: Dataset | None) -> Failure | None:
    """The failure of a job whose spec does not fit its files, now that they are known."""
    problems = checks.problems(job.spec, model, dataset)
    if not problems:
        return None
    first = problems[0]
    return Failure(
        error_class="user",
        code=first.code,
        message=" ".join(problem.message for problem in problems),
        param=first.pointer.removeprefix("/").replace("/", "."),
    )
