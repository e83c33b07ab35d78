"""Checkpoints: the weights at the end of each phase of an attempt. Only those of the last attempt are listed."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.artifacts import Artifact
from app.domain.job import Checkpoint
from app.domain.progress import PhaseProgress
from app.storage.paging import Page, PageQuery, page_of
from app.storage.rows import dumped
from app.storage.tables import CheckpointRow


def add(session: Session, project: str, checkpoint: Checkpoint) -> None:
    """Enter a checkpoint."""
    session.add(
        CheckpointRow(
            project=project,
            **checkpoint.model_dump(exclude={"phase", "artifact"}),
            phase_index=checkpoint.phase.index,
            phase=dumped(checkpoint.phase),
            artifact=dumped(checkpoint.artifact),
        )
    )
    session.flush()


def exists(session: Session, project: str, job_id: str, *, attempt: int, phase_index: int) -> bool:
    """Whether this attempt has finished this phase."""
    statement = select(CheckpointRow.id).where(
        CheckpointRow.project == project,
        CheckpointRow.job_id == job_id,
        CheckpointRow.attempt == attempt,
        CheckpointRow.phase_index == phase_index,
    )
    return session.scalars(statement).one_or_none() is not None


def find(session: Session, project: str, identifier: str) -> Checkpoint | None:
    """The checkpoint, or `None`."""
    statement = select(CheckpointRow).where(CheckpointRow.id == identifier, CheckpointRow.project == project)
    row = session.scalars(statement).one_or_none()
    return None if row is None else _checkpoint(row)


def page(session: Session, project: str, job_id: str, query: PageQuery, *, attempt: int) -> Page[Checkpoint]:
    """One page of an attempt's checkpoints. Raises `InvalidRequestError` if `query.after` is none of the project's."""
    where = [CheckpointRow.job_id == job_id, CheckpointRow.attempt == attempt]
    return page_of(session, CheckpointRow, project, query, where=where).map(_checkpoint)


def _checkpoint(row: CheckpointRow) -> Checkpoint:
    return Checkpoint(
        id=row.id,
        job_id=row.job_id,
        created_at=row.created_at,
        attempt=row.attempt,
        step=row.step,
        phase=PhaseProgress.model_validate(row.phase),
        metrics=row.metrics,
        artifact=Artifact.model_validate(row.artifact),
    )
