"""Jobs: what is in their rows, and the one statement that moves them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.domain.job import Attempt, ForkedFrom, Job, StageRecord
from app.domain.progress import Level, PhaseProgress
from app.domain.report import Report
from app.domain.spec import ResolvedSpec
from app.domain.states import SERVED, TERMINAL, TRANSITIONS, UNFINISHED, JobStatus, rank_of
from app.storage import aside, events, leases
from app.storage.assets import AssetRow
from app.storage.database import now, time_of
from app.storage.events import News
from app.storage.paging import Page, PageQuery, page_of
from app.storage.rows import bundle_of, failure_of, spec_column
from app.storage.tables import DatasetRow, JobMetadataRow, JobRow, ModelRow

_SAME = {
    "id", "created_at", "updated_at", "status", "model", "training_file", "model_id", "dataset_id", "suffix",
    "max_seconds", "deadline_at", "retry_of", "forked_from",
}  # fmt: skip


def add(session: Session, project: str, job: Job, *, api_key_id: str, news: News) -> None:
    """Enter a job with its first event."""
    row = JobRow(
        project=project,
        **job.model_dump(include=_SAME),
        api_key_id=api_key_id,
        priority=rank_of(job.priority),
        rung_at=job.created_at,
        queued_at=job.created_at if job.status == "queued" else None,
        spec=spec_column(job.spec),
        labels=job.metadata,
        stage_history=[],
        artifacts=[],
        event_count=0,
    )
    session.add(row)
    session.flush()
    owned = {"project": project, "job_id": job.id, "created_at": job.created_at}
    session.add_all([JobMetadataRow(**owned, key=key, value=value) for key, value in job.metadata.items()])
    events.append(session, row, [news])


def move(
    session: Session,
    project: str,
    identifier: str,
    *,
    old: JobStatus,
    new: JobStatus,
    news: str,
    where: Sequence[ColumnElement[bool]] = (),
    values: Mapping[str, Any] | None = None,
) -> JobRow | None:
    """Change a job's status from `old` to `new`, if it is `old` and as `where` says, and tell of it in an event.

    `None`: it is not so any more, somebody else was first. There is no other way to change a status, and only
    moves of `TRANSITIONS` are taken: any other is a mistake in Thaw and raises `ValueError`.
    """
    if new not in TRANSITIONS[old]:
        message = f"No job may move from {old} to {new}; allowed: {sorted(TRANSITIONS[old])}"
        raise ValueError(message)
    row = leases.compare_and_set(
        session,
        JobRow,
        project,
        identifier,
        where=[JobRow.status == old, *where],
        values={"status": new, **_implied(old, new), **(values or {})},
    )
    if row is not None:
        close_stage(row)
        events.append(session, row, [_telling(row, news)])
    return row


def _implied(old: JobStatus, new: JobStatus) -> dict[str, Any]:
    """The columns that follow from the move itself."""
    implied: dict[str, Any] = {}
    if old == "running":
        implied |= {**leases.NO_LEASE, "stage": None, "eta_seconds": None, "run_seconds": run_seconds()}
    if old == "paused":
        implied |= {"resume_at": None}
    if old == "queued":
        implied |= {"queued_at": None}
    if new == "queued":
        implied |= {"queued_at": now()}
    if new == "running":
        implied |= {"started_at": func.coalesce(JobRow.started_at, now()), "attempt_started_at": now()}
        implied |= {"phase": None, "progress": 0.0, "epoch_seconds": None}
    if new in TERMINAL:
        implied |= {"finished_at": now()}
    return implied


def run_seconds() -> ColumnElement[float]:
    """How long a running job has run, over all attempts; the last one at most until its lease ran out."""
    until = case((JobRow.lease_expires_at < now(), JobRow.lease_expires_at), else_=now())
    return JobRow.run_seconds + until - func.coalesce(JobRow.attempt_started_at, until)


def is_used_up(session: Session, project: str, job_id: str) -> bool:
    """Whether a running job has run for longer than it may."""
    used_up = func.coalesce(run_seconds() >= JobRow.max_seconds, False)
    return bool(session.scalar(select(used_up).where(JobRow.project == project, JobRow.id == job_id)))


def overdue() -> ColumnElement[bool]:
    """Whether a job should have ended by now."""
    return func.coalesce(JobRow.deadline_at <= now(), False)


def _telling(row: JobRow, news: str) -> News:
    """The event of a move; the last one of every job is `completed`."""
    data: dict[str, object] = {"status": row.status, "attempt": row.attempt}
    if row.error is not None:
        data["error"] = row.error
    level: Level = "error" if row.status == "failed" else "info"
    return News("completed" if row.status in TERMINAL else "status", news, level, data)


def ask_to_cancel(session: Session, row: JobRow) -> None:
    """Note the wish, once; the row is held by this transaction. The worker that has the job looks for it."""
    if row.cancel_requested_at is None:
        row.updated_at = row.cancel_requested_at = time_of(session)
        events.append(session, row, [News("message", "Cancelling was asked for; the worker ends the job.")])


def ask_to_pause(session: Session, row: JobRow) -> None:
    """Note the wish, once; the row is held by this transaction. The worker that has the job looks for it."""
    if row.pause_requested_at is None:
        row.updated_at = row.pause_requested_at = time_of(session)
        events.append(session, row, [News("message", "Pausing was asked for; the worker keeps a checkpoint first.")])


def withdraw_pause(session: Session, row: JobRow) -> None:
    """Forget the wish, if it is not granted yet; the row is held by this transaction."""
    if row.pause_requested_at is not None:
        row.updated_at, row.pause_requested_at = time_of(session), None
        events.append(session, row, [News("message", "Pausing is no longer wanted; the job goes on.")])


def close_stage(row: JobRow) -> None:
    """The stage that the job was in ends now; the row is held by this transaction."""
    if row.stage_history and row.stage_history[-1]["finished_at"] is None:
        row.stage_history = [*row.stage_history[:-1], {**row.stage_history[-1], "finished_at": row.updated_at}]


# === Look up ===


def find(session: Session, project: str, identifier: str) -> Job | None:
    """The job, or `None`."""
    row = session.scalars(select(JobRow).where(JobRow.id == identifier, JobRow.project == project)).one_or_none()
    if row is None:
        return None
    return job_of(row).model_copy(update={"set_aside": aside.why(session, row)})


def attempt_of(session: Session, project: str, identifier: str) -> int | None:
    """The number of the job's last attempt (0: none yet), or `None` if there is no such job."""
    statement = select(JobRow.attempt).where(JobRow.id == identifier, JobRow.project == project)
    return session.scalars(statement).one_or_none()


def page(
    session: Session,
    project: str,
    query: PageQuery,
    *,
    status: JobStatus | None = None,
    model: str | None = None,
    dataset: str | None = None,
    metadata: Mapping[str, str] | None = None,
    created_after: float | None = None,
) -> Page[Job]:
    """One page of a project's jobs, without reports. `model` and `dataset` are ids of what they train from and on."""
    wanted = [(JobRow.status, status), (JobRow.model_id, model), (JobRow.dataset_id, dataset)]
    where: list[ColumnElement[bool]] = [column == value for column, value in wanted if value is not None]
    pairs = [(key, value, aliased(JobMetadataRow)) for key, value in (metadata or {}).items()]
    for key, value, pair in pairs:
        where += [pair.project == project, pair.job_id == JobRow.id, pair.key == key, pair.value == value]
    # The index of the first pair is in the list's order already, and is as short as the list.
    position = (pairs[0][2].created_at, pairs[0][2].job_id) if pairs else (JobRow.created_at, JobRow.id)
    if created_after is not None:
        where.append(position[0] > created_after)
    found = page_of(session, JobRow, project, query, where=where, position=position, without=JobRow.report)
    return found.map(lambda row: _job(row, report=None))


@dataclass(frozen=True)
class Trained:
    """A job that succeeded, by what it was asked to do."""

    id: str
    spec: ResolvedSpec


def trained_with(session: Session, project: str, *, model: str, dataset: str, limit: int) -> list[Trained]:
    """The newest jobs that succeeded with this model and dataset, without their reports."""
    statement = (
        select(JobRow.id, JobRow.spec)
        .where(JobRow.project == project, JobRow.model_id == model, JobRow.dataset_id == dataset)
        .where(JobRow.status == "succeeded")
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(limit)
    )
    return [Trained(found.id, ResolvedSpec.model_validate(found.spec)) for found in session.execute(statement)]


def report_of(session: Session, project: str, identifier: str) -> Report | None:
    """The report of a job that has one."""
    statement = select(JobRow.report).where(JobRow.id == identifier, JobRow.project == project)
    found = session.scalars(statement).one_or_none()
    return None if found is None else Report.model_validate(found)


def wishes(session: Session, project: str, identifier: str) -> tuple[bool, bool]:
    """Whether somebody wants the job to be cancelled, and to be paused."""
    statement = select(JobRow.cancel_requested_at, JobRow.pause_requested_at)
    found = session.execute(statement.where(JobRow.id == identifier, JobRow.project == project)).one_or_none()
    return (False, False) if found is None else (found[0] is not None, found[1] is not None)


def unfinished_with(session: Session, project: str, asset_ids: Sequence[str], *, limit: int) -> list[str]:
    """The ids of jobs that still need one of these models or datasets, the oldest first."""
    needed = JobRow.model_id.in_(asset_ids) | JobRow.dataset_id.in_(asset_ids)
    statement = select(JobRow.id).where(JobRow.project == project, needed, JobRow.status.in_(UNFINISHED))
    return list(session.scalars(statement.order_by(JobRow.id).limit(limit)))


def hold_waiting_for(session: Session, project: str, asset_id: str) -> list[str]:
    """The ids of the jobs whose files are being checked and that need this model or dataset; held from now on.

    Held in one order by everybody, so that two who hold several never wait for each other.
    """
    found: list[str] = []
    for column in (JobRow.model_id, JobRow.dataset_id):
        statement = select(JobRow.id).where(
            JobRow.project == project, JobRow.status == "validating_files", column == asset_id
        )
        found += session.scalars(statement).all()
    held = select(JobRow.id).where(JobRow.project == project, JobRow.id.in_(found)).order_by(JobRow.id)
    return list(session.scalars(held.with_for_update()))


def behind_time(session: Session, *, limit: int) -> list[tuple[leases.Overdue, JobStatus]]:
    """Jobs of all projects that nobody has and that should have ended by now, for the sweeper."""
    at = time_of(session)  # as a value: PostgreSQL finds nothing in an index by a clock that moves
    found: list[tuple[leases.Overdue, JobStatus]] = []
    # One status after the other: asked for several, SQLite may rather read the whole table than seek in an index.
    for status in UNFINISHED:
        if status != JobRow.held:
            statement = (
                select(JobRow.project, JobRow.id, JobRow.attempt)
                .where(JobRow.status == status, JobRow.deadline_at <= at, JobRow.finished_at.is_(None))
                .order_by(JobRow.deadline_at)
            )
            rows = session.execute(statement.limit(limit)).all()
            found += [(leases.Overdue(each.project, each.id, each.attempt), status) for each in rows]
    return found


def decided(session: Session, *, limit: int) -> list[leases.Overdue]:
    """Jobs of all projects that wait for files which nobody checks any more, or which are gone, for the sweeper."""
    model, dataset = _status_of(ModelRow, JobRow.model_id), _status_of(DatasetRow, JobRow.dataset_id)
    statement = (
        select(JobRow.project, JobRow.id, JobRow.attempt)
        .where(JobRow.status == "validating_files")
        .where(((model == "ready") & (dataset == "ready")) | (model == "failed") | (dataset == "failed"))
        .order_by(JobRow.rung_at)
    )
    return [leases.Overdue(*found) for found in session.execute(statement.limit(limit)).all()]


def _status_of(row: type[AssetRow], identifier: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """Looked up for each job, as few wait: joined, all models and datasets might be read. One that is gone failed."""
    return func.coalesce(select(row.status).where(row.id == identifier).scalar_subquery(), "failed")


def job_of(row: JobRow) -> Job:
    """The value that a row stands for."""
    return _job(row, report=None if row.report is None else Report.model_validate(row.report))


def _job(row: JobRow, *, report: Report | None) -> Job:
    return Job(
        id=row.id,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        status=row.status,
        cancel_requested_at=row.cancel_requested_at,
        pause_requested_at=row.pause_requested_at,
        priority=SERVED[row.priority],
        max_seconds=row.max_seconds,
        deadline_at=row.deadline_at,
        retry_of=row.retry_of,
        forked_from=None if row.forked_from is None else ForkedFrom.model_validate(row.forked_from),
        model=row.model,
        training_file=row.training_file,
        model_id=row.model_id,
        dataset_id=row.dataset_id,
        spec=ResolvedSpec.model_validate(row.spec),
        suffix=row.suffix,
        metadata=row.labels,
        stage=row.stage,
        stage_history=[StageRecord.model_validate(each) for each in row.stage_history],
        phase=None if row.phase is None else PhaseProgress.model_validate(row.phase),
        progress=row.progress,
        eta_seconds=row.eta_seconds,
        attempt=Attempt(number=row.attempt, worker=row.worker, lease_expires_at=row.lease_expires_at),
        resume_fidelity=row.resume_fidelity,
        error=failure_of(row.error),
        result_model_id=row.result_model_id,
        artifacts=bundle_of(row.artifacts),
        report=report,
        updated_at=row.updated_at,
        resume_at=row.resume_at,
    )
