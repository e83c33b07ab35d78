"""Checkpoints: the weights at the end of each phase, and what an interrupted job goes on from.

Of a phase that diverges, the weights of its best epoch take the place of those at its end; of one whose job may run no
longer, those that it had.

Those at the end of phases stay. Of the others the last two are kept, and the one after the epoch with the lowest
validation loss of the phase that goes on; once the job has ended, nobody needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.domain.artifacts import Artifact
from app.domain.job import Checkpoint
from app.domain.progress import PhaseProgress
from app.domain.spec import MAX_PHASES
from app.domain.states import TERMINAL
from app.storage.paging import Page, PageQuery, page_of
from app.storage.rows import bundle_of, dumped, dumped_all
from app.storage.tables import CheckpointRow, JobRow

KEPT = 2
MAX_RESUMABLE = 100
"""More than there ever are of one job."""


@dataclass(frozen=True)
class LeftOver:
    """A checkpoint that nobody needs any more."""

    project: str
    id: str
    blobs: list[str]
    """sha256 of its files, of which no other checkpoint has any."""


def add(session: Session, project: str, checkpoint: Checkpoint) -> None:
    """Enter a checkpoint."""
    session.add(
        CheckpointRow(
            project=project,
            **checkpoint.model_dump(exclude={"phase", "artifact", "files"}),
            phase_index=checkpoint.phase.index,
            phase=dumped(checkpoint.phase),
            artifact=None if checkpoint.artifact is None else dumped(checkpoint.artifact),
            files=dumped_all(checkpoint.files),
        )
    )
    session.flush()


def has_weights(session: Session, project: str, job_id: str, *, number: int) -> bool:
    """Whether there are weights with this number, of whichever attempt."""
    statement = select(CheckpointRow.id).where(
        CheckpointRow.project == project,
        CheckpointRow.job_id == job_id,
        CheckpointRow.kind == "phase",
        CheckpointRow.number == number,
    )
    return session.scalars(statement.limit(1)).one_or_none() is not None


def weights_of(session: Session, project: str, job_id: str) -> Sequence[Checkpoint]:
    """All weights that another job may begin with, in the order of the training."""
    statement = select(CheckpointRow).where(
        CheckpointRow.project == project, CheckpointRow.job_id == job_id, CheckpointRow.kind == "phase"
    )
    in_order = (CheckpointRow.phase_index, CheckpointRow.step, CheckpointRow.number)
    return [_checkpoint(row) for row in session.scalars(statement.order_by(*in_order).limit(3 * MAX_PHASES))]


def newest_weights(session: Session, project: str, job_id: str) -> Checkpoint | None:
    """What a fork begins with if it is not told otherwise; never the best of a phase that diverged."""
    found = [each for each in weights_of(session, project, job_id) if each.within != "best"]
    return found[-1] if found else None


def find(session: Session, project: str, identifier: str) -> Checkpoint | None:
    """Weights that another job may begin with, or `None`."""
    statement = select(CheckpointRow).where(
        CheckpointRow.id == identifier, CheckpointRow.project == project, CheckpointRow.kind == "phase"
    )
    row = session.scalars(statement).one_or_none()
    return None if row is None else _checkpoint(row)


def resumable(session: Session, project: str, job_id: str) -> Sequence[Checkpoint]:
    """What the job can go on from, the newest first."""
    statement = select(CheckpointRow).where(
        CheckpointRow.project == project, CheckpointRow.job_id == job_id, CheckpointRow.kind == "resume"
    )
    newest_first = (CheckpointRow.attempt.desc(), CheckpointRow.number.desc())
    return [_checkpoint(row) for row in session.scalars(statement.order_by(*newest_first).limit(MAX_RESUMABLE))]


def remove_superseded(session: Session, project: str, job_id: str) -> list[str]:
    """Forget what is neither of the last two nor the best of its phase; sha256 of files to delete after the commit."""
    found = resumable(session, project, job_id)
    losses = {
        each.id: each.metrics["val_loss"]
        for each in found
        if "val_loss" in each.metrics and each.phase.index == found[0].phase.index
    }
    best = min(losses, key=losses.__getitem__) if losses else None
    stale = [each for each in found[KEPT:] if each.id != best]
    for each in stale:
        remove(session, project, each.id)
    return [artifact.sha256 for each in stale for artifact in each.files]


def remove(session: Session, project: str, identifier: str) -> None:
    """Forget a checkpoint."""
    session.execute(delete(CheckpointRow).where(CheckpointRow.id == identifier, CheckpointRow.project == project))


def left_over(session: Session, *, limit: int) -> list[LeftOver]:
    """Of all projects those that ended jobs went on from, for the sweeper."""
    statement = (
        select(CheckpointRow)
        .join(JobRow, JobRow.id == CheckpointRow.job_id)
        .where(CheckpointRow.kind == "resume", JobRow.status.in_(TERMINAL))
        .order_by(CheckpointRow.id)
    )
    rows = session.scalars(statement.limit(limit))
    return [LeftOver(row.project, row.id, [each.sha256 for each in bundle_of(row.files)]) for row in rows]


def furthest_step(session: Session, project: str, job_id: str, *, before_attempt: int) -> int:
    """Optimizer steps that earlier attempts had done when they were kept last; 0: nothing was."""
    statement = select(func.max(CheckpointRow.step)).where(
        CheckpointRow.project == project,
        CheckpointRow.job_id == job_id,
        CheckpointRow.kind == "resume",
        CheckpointRow.attempt < before_attempt,
    )
    return session.scalars(statement).one() or 0


def page(session: Session, project: str, job_id: str, query: PageQuery) -> Page[Checkpoint]:
    """One page of a job's checkpoints. Raises `InvalidRequestError` if `query.after` is none of the project's."""
    return page_of(session, CheckpointRow, project, query, where=[CheckpointRow.job_id == job_id]).map(_checkpoint)


def _checkpoint(row: CheckpointRow) -> Checkpoint:
    return Checkpoint(
        id=row.id,
        kind=row.kind,
        job_id=row.job_id,
        created_at=row.created_at,
        attempt=row.attempt,
        number=row.number,
        step=row.step,
        phase=PhaseProgress.model_validate(row.phase),
        metrics=row.metrics,
        artifact=None if row.artifact is None else Artifact.model_validate(row.artifact),
        files=bundle_of(row.files),
    )
