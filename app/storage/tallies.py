"""Tallies: how much there is of what, over all projects, for those who run the service.

Each is one statement that a million jobs do not make slow: it reads an index and no row of a job, or the rows of the
newest `RECENT` jobs only. What a row holds as JSON (failures, stages, reports) is looked at for those alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ColumnElement, Select, Subquery, column, func, literal, select, union_all
from sqlalchemy.orm import Session

from app.domain.states import JobStatus
from app.storage import leases
from app.storage.database import now
from app.storage.leases import AnyLeased
from app.storage.tables import DatasetRow, JobRow, ModelRow

RECENT = 10_000
"""Of so many jobs, the newest ones, rows are read."""
KINDS: Mapping[str, AnyLeased] = {"job": JobRow, "model": ModelRow, "dataset": DatasetRow}


@dataclass(frozen=True)
class Held:
    """How many of one kind workers hold, and of how many the lease ran out unnoticed so far."""

    live: int
    overdue: int


@dataclass(frozen=True)
class Ending:
    """The recent jobs in one status and, if they failed, with one reason."""

    status: JobStatus
    error_class: str | None
    code: str | None
    jobs: int
    attempts: int
    lost_attempts: int
    """Since their last new checkpoint."""


@dataclass(frozen=True)
class StageTime:
    """One stage in the recent jobs, as often as it ended."""

    stage: str
    count: int
    seconds: float


@dataclass(frozen=True)
class CachedPhases:
    """Phases of the recent jobs that succeeded, by what the cache of frozen layers did for them."""

    used: bool
    found: bool
    """An earlier phase or job had made the features already."""
    phases: int
    saved_seconds: float


# === From indexes alone ===


def jobs_by_status(session: Session) -> dict[JobStatus, int]:
    """All jobs of all projects, counted."""
    statement = select(JobRow.status, func.count().label("jobs")).group_by(JobRow.status)
    return {row.status: row.jobs for row in session.execute(statement)}


def queued_by_priority(session: Session) -> dict[int, int]:
    """The queued jobs of all projects, by the rank of their priority."""
    statement = select(JobRow.priority, func.count().label("jobs")).where(JobRow.status == "queued")
    return {row.priority: row.jobs for row in session.execute(statement.group_by(JobRow.priority))}


def waiting(session: Session) -> dict[str, int]:
    """What workers of all projects could claim now, by kind: `job`, `model`, `dataset`."""
    statement = _of_each_kind(lambda row: select(func.count().label("waiting")).where(*leases.unclaimed(row)))
    return {row.kind: row.waiting for row in session.execute(statement)}


def held(session: Session) -> dict[str, Held]:
    """What workers of all projects hold, by kind."""

    def counts(row: AnyLeased) -> Any:  # noqa: ANN401 (a statement of two columns)
        over = func.count().filter(row.lease_expires_at <= now())
        return select(func.count(), over).where(row.status == row.held, row.lease_expires_at.is_not(None))

    found = session.execute(_of_each_kind(counts)).all()
    return {kind: Held(live=all_ - over, overdue=over) for kind, all_, over in found}


def oldest_waiting_seconds(session: Session) -> float | None:
    """How long the job has been in the queue that has been there longest, of all projects; `None`: none waits.

    Since it joined the queue last: what it has run before, or has been paused, is no waiting.
    """
    statement = select(now() - func.min(JobRow.queued_at)).where(JobRow.queued_at.is_not(None))
    return session.execute(statement).scalar_one()


def _of_each_kind(counting: Any) -> Any:  # noqa: ANN401 (statements of any columns)
    """One statement that counts jobs, models and datasets, each through its own indexes."""
    return union_all(*(_named(kind, counting(row).select_from(row)) for kind, row in KINDS.items()))


def _named(kind: str, statement: Select[Any]) -> Select[Any]:
    columns: list[ColumnElement[Any]] = [literal(kind).label("kind"), *statement.selected_columns]
    return statement.with_only_columns(*columns)


# === From the rows of the newest jobs ===


def recent_endings(session: Session) -> list[Ending]:
    """The newest `RECENT` jobs of all projects, by status and reason of failure."""
    recent = _recent(JobRow.status, JobRow.error, JobRow.attempt, JobRow.lost_attempts)
    keys = (recent.c.status, recent.c.error["error_class"].as_string(), recent.c.error["code"].as_string())
    sums = (func.sum(recent.c.attempt), func.sum(recent.c.lost_attempts))
    statement = select(*keys, func.count(), *sums).group_by(*keys).order_by(*keys)
    return [Ending(*row) for row in session.execute(statement).all()]


def recent_stages(session: Session) -> list[StageTime]:
    """How long the stages of the newest `RECENT` jobs of all projects took, where they ended."""
    recent = _recent(JobRow.stage_history)
    record = _elements(session, recent.c.stage_history)
    stage, finished = record["stage"].as_string(), record["finished_at"].as_float()
    seconds = func.sum(finished - record["started_at"].as_float())
    statement = select(stage, func.count(), seconds).select_from(recent).where(finished.is_not(None))
    found = session.execute(statement.group_by(stage).order_by(stage)).all()
    return [StageTime(*row) for row in found]


def recent_caching(session: Session) -> list[CachedPhases]:
    """What the cache did for the phases of those of the newest `RECENT` jobs that have a report."""
    recent = _recent(JobRow.report["phases"].label("phases"), JobRow.status)
    use = _elements(session, recent.c.phases)["cache"]
    used, found = use["used"].as_boolean(), use["found"].as_boolean()
    statement = (
        select(used, found, func.count(), func.sum(use["saved_seconds"].as_float()))
        .select_from(recent)
        .where(recent.c.status == "succeeded", used.is_not(None))
        .group_by(used, found)
        .order_by(used, found)
    )
    return [CachedPhases(*row) for row in session.execute(statement).all()]


def _recent(*columns: Any) -> Subquery:  # noqa: ANN401 (columns of any type)
    """Ids sort by time, whatever the project: the newest jobs are the end of the primary key."""
    return select(*columns).order_by(JobRow.id.desc()).limit(RECENT).subquery("recent")


def _elements(session: Session, array: ColumnElement[Any]) -> Any:  # noqa: ANN401 (JSON of any shape)
    """The elements of a JSON array, each a row of its own."""
    of_sqlite = session.get_bind().dialect.name == "sqlite"
    elements = func.json_each(array) if of_sqlite else func.json_array_elements(array)
    return elements.table_valued(column("value", JSON), joins_implicitly=True).c.value
