"""What models and datasets have in common: both come from a file, are checked by a worker, and serve jobs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.domain.artifacts import Bundle
from app.domain.errors import Failure
from app.domain.states import AssetStatus
from app.storage import leases
from app.storage.paging import Page, PageQuery, page_of
from app.storage.rows import dumped, dumped_all
from app.storage.tables import Asset

AssetRow = TypeVar("AssetRow", bound=Asset)


def find(session: Session, row: type[AssetRow], project: str, identifier: str) -> AssetRow | None:
    """The row as it is now, or `None`."""
    statement = select(row).where(row.id == identifier, row.project == project)
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def hold(session: Session, row: type[AssetRow], project: str, identifier: str) -> AssetRow | None:
    """The row as it is now, which nobody changes or deletes until this transaction ends.

    Who makes a job that waits for it holds it: either its worker finishes first, and the job sees it ready, or the
    worker comes later, and sees the job wait.
    """
    statement = select(row).where(row.id == identifier, row.project == project).with_for_update(read=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def from_file(session: Session, row: type[AssetRow], project: str, file_id: str) -> Sequence[AssetRow]:
    """What was made of a file and did not fail, the oldest first (at most 100)."""
    statement = select(row).where(row.project == project, row.file_id == file_id, row.status != "failed")
    return session.scalars(statement.order_by(row.created_at, row.id).limit(100)).all()


def being_checked(session: Session, row: type[AssetRow], project: str, file_id: str, *, limit: int) -> list[str]:
    """The ids of what is still being made of this file, the oldest first."""
    statement = select(row.id).where(row.project == project, row.file_id == file_id, row.status == "validating")
    return list(session.scalars(statement.order_by(row.id).limit(limit)))


def page(
    session: Session, row: type[AssetRow], project: str, query: PageQuery, *, status: AssetStatus | None
) -> Page[AssetRow]:
    """One page of a project's models or datasets."""
    where = [] if status is None else [row.status == status]
    return page_of(session, row, project, query, where=where)


def remove(session: Session, row: type[AssetRow], project: str, identifier: str) -> None:
    """Forget it. What was made with it stays."""
    session.execute(delete(row).where(row.id == identifier, row.project == project))


def set_ready(
    session: Session,
    row: type[AssetRow],
    project: str,
    identifier: str,
    *,
    where: Sequence[ColumnElement[bool]],
    canonical: Bundle,
    values: Mapping[str, Any],
) -> AssetRow | None:
    """Validating -> ready, with what was found out in `values`. `None`: the row is no longer as `where` says."""
    ready = {**values, "status": "ready", "canonical": dumped_all(canonical), **leases.NO_LEASE}
    return leases.compare_and_set(session, row, project, identifier, where=where, values=ready)


def set_failed(
    session: Session,
    row: type[AssetRow],
    project: str,
    identifier: str,
    *,
    where: Sequence[ColumnElement[bool]],
    failure: Failure,
) -> AssetRow | None:
    """Validating -> failed. `None`: the row is no longer as `where` says."""
    failed = {"status": "failed", "error": dumped(failure), **leases.NO_LEASE}
    return leases.compare_and_set(session, row, project, identifier, where=where, values=failed)
