"""Claims: how a worker takes a job, a model or a dataset, and keeps it.

A hint brings an id. `claim_*` answers `None` where there is nothing to do: somebody else has it, it was cancelled or
deleted, or the hint is old. That is normal. Who got a claim renews it every few seconds; `LeaseLostError` says that
it is lost: stop at once, write nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.ancestry import Ancestry
from app.domain.dataset import Dataset
from app.domain.errors import Failure, LeaseLostError, PlatformError
from app.domain.file import File
from app.domain.job import Checkpoint, Job
from app.domain.model import Model
from app.services import ancestry, attempts, chronicle, waiting, workers
from app.services.context import Services
from app.services.ringing import ring
from app.storage import checkpoints, datasets, files, jobs, leases, line, models
from app.storage.assets import AssetRow
from app.storage.database import time_of
from app.storage.leases import taken
from app.storage.rows import dumped
from app.storage.tables import DatasetRow, JobRow, ModelRow

_log = structlog.get_logger(__name__)

TRIES = 100
"""Jobs that other workers may take from under our eyes before we leave the line to them."""


@dataclass(frozen=True)
class Allowance:
    """How long a job may go on running; `None`: as long as it takes."""

    run_seconds: float | None = None
    """Of `max_seconds`, what earlier attempts have left."""
    until_deadline_seconds: float | None = None


@dataclass(frozen=True)
class JobClaim:
    """A job that this worker trains. `attempt` is the fencing number: every write names it."""

    project: str
    job: Job
    attempt: int
    claimed_at: float
    """`time.monotonic()` when its lease began, or a moment earlier."""
    model: Model
    dataset: Dataset
    checkpoints: Sequence[Checkpoint] = ()
    """What an earlier attempt left to go on from, the newest first."""
    allowance: Allowance = Allowance()
    """How long it may run."""
    ancestry: Ancestry | None = None
    """Where it comes from."""
    row: ClassVar[type[JobRow]] = JobRow

    @property
    def identifier(self) -> str:
        """The job's id."""
        return self.job.id


@dataclass(frozen=True)
class ModelClaim:
    """A model that this worker checks, or builds."""

    project: str
    model: Model
    attempt: int
    claimed_at: float
    """As of a job."""
    file: File | None
    """`None`: the model has a `reference` instead."""
    row: ClassVar[type[ModelRow]] = ModelRow

    @property
    def identifier(self) -> str:
        """The model's id."""
        return self.model.id


@dataclass(frozen=True)
class DatasetClaim:
    """A dataset that this worker checks."""

    project: str
    dataset: Dataset
    attempt: int
    claimed_at: float
    """As of a job."""
    file: File
    row: ClassVar[type[DatasetRow]] = DatasetRow

    @property
    def identifier(self) -> str:
        """The dataset's id."""
        return self.dataset.id


Claim = JobClaim | ModelClaim | DatasetClaim

# === Claim ===


def claim_next(services: Services, rung_for: str | None, *, worker: str) -> JobClaim | None:
    """Take the job that is next in the line, be it another one than the hint was for; `None`: none waits.

    The hint for the one that was taken finds somebody else by then. A worker on another queue than the one that is rung
    now (an old hint reached a CPU while there are GPUs) takes what it was rung for, and nothing else. `rung_for` is
    `None` for one that looks by itself.
    """
    for _ in range(TRIES if _serves_the_line(services, worker) else 0):
        job_id = next_in_line(services)
        if job_id is None:
            break
        claim = None
        try:
            claim = claim_job(services, job_id, worker=worker)
        except SQLAlchemyError:
            raise
        except Exception:  # noqa: BLE001 (the edge of a row: one that cannot be read keeps its place, and nobody else)
            _log.exception("the next job cannot be taken, the one that was rung for is tried instead", job_id=job_id)
            break
        if claim is not None:
            return claim
    return None if rung_for is None else claim_job(services, rung_for, worker=worker)


def next_in_line(services: Services) -> str | None:
    """The id of the job that is to be claimed next; `None`: none waits."""
    with services.db.read() as session:
        return line.first(session)


def _serves_the_line(services: Services, worker: str) -> bool:
    """Whether hints are sent to this worker's queues now; one that has not announced itself was rung by somebody."""
    live = workers.live(services)
    own = next((found.queues for found in live if found.id == worker), None)
    return own is None or workers.queue_of(live) in own


def claim_job(services: Services, job_id: str, *, worker: str) -> JobClaim | None:
    """Take this job, if it is queued. One that was to be cancelled is cancelled instead.

    One whose model or dataset is gone, which nobody may delete before it ends, fails: raising would undo the claim, and
    leave the job first in the line for ever.
    """
    with services.db.begin() as session:
        project = leases.project_of(session, JobRow, job_id)
        if project is None:
            return None
        claimed_at = time.monotonic()  # and not before the transaction, which waits for others on SQLite
        row = _start(session, project, job_id, worker=worker, seconds=services.settings.lease_seconds)
        if row is None:
            _cancel_if_asked(session, project, job_id)
            return None
        model, dataset = models.find(session, project, row.model_id), datasets.find(session, project, row.dataset_id)
        if model is None or dataset is None:
            lacking = ("model", row.model) if model is None else ("training_file", row.training_file)
            _fail(session, row, waiting.gone(*lacking))
            return None
        kept = checkpoints.resumable(session, project, job_id)
        if kept:
            chronicle.go_on(session, row, kept[0])
        job = jobs.job_of(row)
        return JobClaim(
            project=project,
            job=job,
            attempt=row.attempt,
            claimed_at=claimed_at,
            model=model,
            dataset=dataset,
            checkpoints=kept,
            allowance=_allowance(row, at=time_of(session)),
            ancestry=ancestry.of(session, project, job),
        )


def _allowance(row: JobRow, *, at: float) -> Allowance:
    return Allowance(
        run_seconds=None if row.max_seconds is None else max(0.0, row.max_seconds - row.run_seconds),
        until_deadline_seconds=None if row.deadline_at is None else max(0.0, row.deadline_at - at),
    )


def _start(session: Session, project: str, job_id: str, *, worker: str, seconds: float) -> JobRow | None:
    return jobs.move(
        session,
        project,
        job_id,
        old="queued",
        new="running",
        news=f"An attempt started on {worker}.",
        where=[JobRow.cancel_requested_at.is_(None), ~jobs.overdue()],
        values=taken(JobRow, worker=worker, seconds=seconds),
    )


def _fail(session: Session, row: JobRow, failure: Failure) -> None:
    """End the attempt that has just begun."""
    where, values = leases.fenced(JobRow, row.attempt), {"error": dumped(failure)}
    jobs.move(
        session, row.project, row.id, old="running", new="failed", news=failure.message, where=where, values=values
    )


def _cancel_if_asked(session: Session, project: str, job_id: str) -> None:
    asked = [JobRow.cancel_requested_at.is_not(None)]
    jobs.move(session, project, job_id, old="queued", new="cancelled", news="The job was cancelled.", where=asked)


def claim_model(services: Services, model_id: str, *, worker: str) -> ModelClaim | None:
    """Take a model that is to be checked."""
    with services.db.begin() as session:
        found = _take(session, ModelRow, model_id, worker=worker, seconds=services.settings.lease_seconds)
        if found is None:
            return None
        row, claimed_at = found
        return ModelClaim(
            project=row.project,
            model=models.model_of(row),
            attempt=row.attempt,
            claimed_at=claimed_at,
            file=None if row.reference else _file_of(session, row),
        )


def claim_dataset(services: Services, dataset_id: str, *, worker: str) -> DatasetClaim | None:
    """Take a dataset that is to be checked."""
    with services.db.begin() as session:
        found = _take(session, DatasetRow, dataset_id, worker=worker, seconds=services.settings.lease_seconds)
        if found is None:
            return None
        row, claimed_at = found
        return DatasetClaim(
            project=row.project,
            dataset=datasets.dataset_of(row),
            attempt=row.attempt,
            claimed_at=claimed_at,
            file=_file_of(session, row),
        )


def _take(
    session: Session, row: type[AssetRow], identifier: str, *, worker: str, seconds: float
) -> tuple[AssetRow, float] | None:
    """The row, and `claimed_at`."""
    project = leases.project_of(session, row, identifier)
    if project is None:
        return None
    claimed_at, values = time.monotonic(), taken(row, worker=worker, seconds=seconds)
    found = leases.compare_and_set(session, row, project, identifier, where=leases.unclaimed(row), values=values)
    return None if found is None else (found, claimed_at)


def _file_of(session: Session, row: ModelRow | DatasetRow) -> File:
    file = None if row.file_id is None else files.find(session, row.project, row.file_id)
    if file is None:
        message = f"'{row.id}' needs the file '{row.file_id}', which nobody may delete before it is checked."
        raise PlatformError(message, code="missing_row")
    return file


# === Keep, give back ===


def renew(services: Services, claim: Claim) -> bool:
    """Hold it for `lease_seconds` more from now. Raises `LeaseLostError`; there is no other answer than `True`."""
    seconds = services.settings.lease_seconds
    with services.db.begin() as session:
        held = leases.renew(session, claim.row, claim.project, claim.identifier, attempt=claim.attempt, seconds=seconds)
    if not held:
        raise lost(claim)
    return True


@dataclass(frozen=True)
class Wishes:
    """What somebody wants of a job that runs."""

    cancel: bool = False
    pause: bool = False


def wishes(services: Services, claim: Claim) -> Wishes:
    """What is wanted of it now. Nobody cancels or pauses models and datasets."""
    if not isinstance(claim, JobClaim):
        return Wishes()
    with services.db.read() as session:
        cancel, pause = jobs.wishes(session, claim.project, claim.identifier)
    return Wishes(cancel=cancel, pause=pause)


def release(services: Services, claim: Claim, *, charge_attempt: bool) -> attempts.Outcome:
    """Give it back, for another worker to go on from its newest checkpoint. Raises `LeaseLostError`.

    `charge_attempt` counts it among the three that may be lost; a worker that merely shuts down does not. A job
    that was to be cancelled is cancelled instead, and one that was to be paused is paused.
    """
    with services.db.begin() as session:
        where = leases.fenced(claim.row, claim.attempt)
        ended = attempts.end(session, claim.row, claim.project, claim.identifier, where=where, lost=charge_attempt)
        if ended is None:
            raise lost(claim)
    ring(services, ended.hints)
    return ended.outcome


def lost(claim: Claim) -> LeaseLostError:
    """The error for a worker that no longer holds what it claimed."""
    return LeaseLostError(
        f"Attempt {claim.attempt} no longer holds '{claim.identifier}'. It must stop and write nothing."
    )
