"""Leases: how a worker holds a job, a model or a dataset, in the same statements for all three.

    claim    waiting -> held, attempt + 1, a lease      0 rows: somebody else has it, a normal outcome
    renew    a longer lease                             0 rows: lost, stop and write nothing
    (moves)  held -> something, the lease ends          0 rows: lost

Every write of a worker carries the fence: the row's id, the status that only a holder sees, the attempt's number and
a lease that has not run out by the database's clock. Whoever was declared dead and comes back writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.storage.database import now, time_of
from app.storage.tables import Leased

LeasedRow = TypeVar("LeasedRow", bound=Leased)
AnyLeased = type[Leased]

NO_LEASE: Mapping[str, Any] = {"lease_expires_at": None}


@dataclass(frozen=True)
class Overdue:
    """A row of some project that the sweeper should look at."""

    project: str
    id: str
    attempt: int


def project_of(session: Session, row: AnyLeased, identifier: str) -> str | None:
    """Whose this is: a hint carries the id alone. `None`: there is no such row (any more)."""
    return session.scalars(select(row.project).where(row.id == identifier)).one_or_none()


def compare_and_set(
    session: Session,
    row: type[LeasedRow],
    project: str,
    identifier: str,
    *,
    where: Sequence[ColumnElement[bool]],
    values: Mapping[str, Any],
) -> LeasedRow | None:
    """Change the row if it is still as `where` says; `None`: it is not, somebody else was first."""
    statement = (
        update(row)
        .where(row.id == identifier, row.project == project, *where)
        .values({"updated_at": now(), **values})
        .returning(row)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def lock(session: Session, row: type[LeasedRow], project: str, identifier: str) -> LeasedRow | None:
    """The row, which nobody else changes until this transaction ends (on SQLite nobody changes anything)."""
    statement = select(row).where(row.id == identifier, row.project == project).with_for_update()
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


# === Conditions ===


def unclaimed(row: AnyLeased) -> list[ColumnElement[bool]]:
    """Nobody holds it, and it may be claimed."""
    return [row.status == row.waiting, row.lease_expires_at.is_(None)]


def fenced(row: AnyLeased, attempt: int) -> list[ColumnElement[bool]]:
    """This attempt still holds it."""
    return [row.status == row.held, row.attempt == attempt, row.lease_expires_at > now()]


def ran_out(row: AnyLeased) -> list[ColumnElement[bool]]:
    """Somebody held it, and was not heard of until the lease ended."""
    return [row.status == row.held, row.lease_expires_at <= now()]


# === Values ===


def taken(row: AnyLeased, *, worker: str, seconds: float) -> dict[str, Any]:
    """What a claim writes."""
    return {"attempt": row.attempt + 1, "worker": worker, "lease_expires_at": now() + seconds}


def given_back(row: AnyLeased, *, lost: bool) -> dict[str, Any]:
    """What a row gets that waits again; `lost` attempts are counted."""
    return {**NO_LEASE, "rung_at": now(), "lost_attempts": row.lost_attempts + int(lost)}


# === Statements that all three share ===


def renew(
    session: Session, row: type[LeasedRow], project: str, identifier: str, *, attempt: int, seconds: float
) -> bool:
    """Hold it for `seconds` more; `False`: it is lost. `updated_at` stays as it is."""
    statement = (
        update(row)
        .where(row.id == identifier, row.project == project, *fenced(row, attempt))
        .values(lease_expires_at=now() + seconds)
        .returning(row.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalars(statement).one_or_none() is not None


def expired(session: Session, row: AnyLeased, *, limit: int) -> list[Overdue]:
    """Rows of all projects whose lease ran out."""
    statement = select(row.project, row.id, row.attempt).where(*ran_out(row)).order_by(row.lease_expires_at)
    return [Overdue(*found) for found in session.execute(statement.limit(limit)).all()]


def unrung(session: Session, row: AnyLeased, *, older_than_seconds: float, limit: int) -> list[Overdue]:
    """Rows of all projects that wait and whose hint is old or got nowhere; the longest neglected first.

    They count as rung from now on, so that of several sweepers one rings.
    """
    since = time_of(session) - older_than_seconds  # as a value: PostgreSQL would read all that wait, by a moving clock
    due = (
        select(row.id)
        .where(*unclaimed(row), row.rung_at <= since)
        .order_by(row.rung_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(row)
        .where(row.id.in_(due))
        .values(rung_at=now())
        .returning(row.project, row.id, row.attempt, row.created_at)
        .execution_options(synchronize_session=False)
    )
    found = sorted(session.execute(statement).all(), key=lambda each: (each.created_at, each.id))
    return [Overdue(each.project, each.id, each.attempt) for each in found]


def mark_unrung(session: Session, row: AnyLeased, project: str, identifier: str) -> None:
    """Its hint did not get through: ring again at the next sweep."""
    statement = update(row).where(row.id == identifier, row.project == project).values(rung_at=0.0)
    session.execute(statement.execution_options(synchronize_session=False))
