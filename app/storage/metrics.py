"""Metrics: one row for each epoch of a job, with the attempt that measured it first."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.job import EpochMetrics
from app.domain.phases import MAX_EPOCHS
from app.domain.progress import PhaseProgress
from app.domain.spec import MAX_PHASES
from app.storage.paging import Page, PageQuery, cut_to, in_order, unknown_after
from app.storage.rows import dumped
from app.storage.tables import MetricRow


def add(session: Session, project: str, epoch: EpochMetrics) -> None:
    """Enter an epoch."""
    session.add(
        MetricRow(
            project=project,
            **epoch.model_dump(exclude={"phase"}),
            phase_index=epoch.phase.index,
            epoch=epoch.phase.epoch,
            phase=dumped(epoch.phase),
        )
    )
    session.flush()


def of_phase(session: Session, project: str, job_id: str, *, phase_index: int) -> Sequence[EpochMetrics]:
    """The epochs of one phase, in order."""
    statement = select(MetricRow).where(
        MetricRow.project == project, MetricRow.job_id == job_id, MetricRow.phase_index == phase_index
    )
    return [_epoch(row) for row in session.scalars(statement.order_by(MetricRow.epoch).limit(MAX_EPOCHS))]


def seconds_of_phase(session: Session, project: str, job_id: str, *, phase_index: int, limit: int) -> list[float]:
    """How long the first `limit` epochs of a phase took, in whichever attempts they ran, the last attempt first."""
    statement = (
        select(MetricRow.metrics)
        .where(MetricRow.project == project, MetricRow.job_id == job_id, MetricRow.phase_index == phase_index)
        .order_by(MetricRow.attempt.desc(), MetricRow.epoch)
        .limit(limit)
    )
    return [metrics["seconds"] for metrics in session.scalars(statement) if "seconds" in metrics]


def page(session: Session, project: str, job_id: str, query: PageQuery) -> Page[EpochMetrics]:
    """One page of a job's epochs; `query.after` is an epoch's number. Raises `InvalidRequestError`."""
    statement = select(MetricRow).where(MetricRow.project == project, MetricRow.job_id == job_id)
    if query.after is not None:
        number = _number(query.after)
        if session.scalars(statement.where(MetricRow.number == number)).one_or_none() is None:
            raise unknown_after(query.after)
        statement = statement.where(MetricRow.number > number if query.order == "asc" else MetricRow.number < number)
    statement = statement.order_by(*in_order((MetricRow.number,), query.order)).limit(query.limit + 1)
    return cut_to(query, [_epoch(row) for row in session.scalars(statement)])


def _number(after: str) -> int:
    if not after.isdecimal() or len(after) > len(str(MAX_EPOCHS * MAX_PHASES)):
        raise unknown_after(after)
    return int(after)


def _epoch(row: MetricRow) -> EpochMetrics:
    return EpochMetrics(
        job_id=row.job_id,
        attempt=row.attempt,
        number=row.number,
        created_at=row.created_at,
        phase=PhaseProgress.model_validate(row.phase),
        step=row.step,
        metrics=row.metrics,
    )
