"""The line of queued jobs: who is next, and where a job stands.

    highest priority  ->  the API key with the fewest running jobs  ->  the oldest job

Of all projects, as workers serve all. Nothing here is held or changed: the claim itself is a compare-and-set, and
whoever finds that somebody else was first looks again. Every statement seeks in the index `ix_jobs_line`, so that it
costs the same however long the line is.
"""

from dataclasses import dataclass
from itertools import groupby
from statistics import median

from sqlalchemy import ColumnElement, ScalarSelect, Select, func, literal, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.storage import jobs
from app.storage.tables import JobRow

COUNTED = 10_000
"""Places in the line are counted so far; behind that, looking at a job would become slow."""
MAX_KEYS = 100
"""API keys that wait at one priority; with more of them, nobody is told a place."""
LOOKS = 10
"""Times to look for the next job: on PostgreSQL others take jobs between two statements of one transaction."""
RECENT = 20
"""Jobs that are looked at to say how long one takes."""

_QUEUED = JobRow.status == JobRow.waiting

# === Who is next ===


def first(session: Session) -> str | None:
    """The id of the job that is to be claimed next, or `None` if none waits."""
    urgent = select(JobRow.priority).where(*_ready()).order_by(JobRow.priority).limit(1)
    for _ in range(LOOKS):
        priority = session.scalars(urgent).one_or_none()
        head = None if priority is None else _head(session, priority)
        if priority is None or head is not None:
            return head
    return None


def _ready() -> list[ColumnElement[bool]]:
    return [_QUEUED, JobRow.cancel_requested_at.is_(None), ~jobs.overdue()]


def _head(session: Session, priority: int) -> str | None:
    """The next one of this priority, by its key's share and its age; `None`: others have just taken the last."""
    running = _running(session)
    keys = sorted(_keys(session, priority, limit=COUNTED), key=lambda key: running.get(key, 0))
    for _, equal in groupby(keys, key=lambda key: running.get(key, 0)):
        found = [session.execute(_in_line(priority, key).where(*_ready()).limit(1)).one_or_none() for key in equal]
        heads: list[tuple[float, str]] = [(head.created_at, head.id) for head in found if head is not None]
        if heads:
            return min(heads)[1]
    return None


def _in_line(priority: int, key: str) -> Select[float, str]:
    """The queued jobs of one key and priority, the oldest first."""
    statement = select(JobRow.created_at, JobRow.id)
    statement = statement.where(_QUEUED, JobRow.priority == priority, JobRow.api_key_id == key)
    return statement.order_by(JobRow.created_at, JobRow.id)


def _running(session: Session) -> dict[str, int]:
    """Running jobs by API key. They are as many as workers have devices, so all of them are counted."""
    statement = select(JobRow.api_key_id, func.count().label("jobs")).where(JobRow.status == JobRow.held)
    return {found.api_key_id: found.jobs for found in session.execute(statement.group_by(JobRow.api_key_id))}


def _keys(session: Session, priority: int, *, limit: int) -> list[str]:
    """The API keys that have queued jobs of this priority: from each to the next, one seek in the index."""
    keys = select(_next_key(priority).label("key")).cte("keys", recursive=True)
    keys = keys.union_all(select(_next_key(priority, after=keys.c.key)).where(keys.c.key.is_not(None)))
    return list(session.scalars(select(keys.c.key).where(keys.c.key.is_not(None)).limit(limit)))


def _next_key(priority: int, *, after: ColumnElement[str] | None = None) -> ScalarSelect[str]:
    row = aliased(JobRow)
    statement = select(func.min(row.api_key_id)).where(row.status == JobRow.waiting, row.priority == priority)
    return (statement if after is None else statement.where(row.api_key_id > after)).scalar_subquery()


# === Where a job stands ===


def position(session: Session, identifier: str) -> int | None:
    """From 1: the how-many-th claim takes this job, if no running job ends and no other comes meanwhile.

    `None`: it does not wait, or stands too far behind for that to be counted.
    """
    row = session.get(JobRow, identifier)
    if row is None or row.status != JobRow.waiting:
        return None
    before = _by_key(session, row.priority)
    own = _count(session, _in_line(row.priority, row.api_key_id).where(_older_than(row)))
    keys = _keys(session, row.priority, limit=MAX_KEYS + 1)
    if max(own, sum(before.values())) > COUNTED or len(keys) > MAX_KEYS:
        return None
    # Jobs of higher priority go first, and will be running when this one's turn comes.
    running = _running(session)
    level = running.get(row.api_key_id, 0) + before.get(row.api_key_id, 0) + own
    ahead = own + sum(before.values())
    for key in keys:
        if key != row.api_key_id:
            turns = level - running.get(key, 0) - before.get(key, 0)
            ahead += _turns_before(session, row, key, turns=turns)
    return ahead + 1 if ahead < COUNTED else None


def _turns_before(session: Session, row: JobRow, key: str, *, turns: int) -> int:
    """Jobs of another key that go before: so many that it has as much as the own one, and one more if that is older."""
    if turns < 0:
        return 0
    line = _in_line(row.priority, key)
    decisive = session.execute(line.limit(1).offset(turns)).one_or_none()
    if decisive is None:
        return min(turns, _count(session, line))
    return turns + int((decisive.created_at, decisive.id) < (row.created_at, row.id))


def _older_than(row: JobRow) -> ColumnElement[bool]:
    return tuple_(JobRow.created_at, JobRow.id) < tuple_(literal(row.created_at), literal(row.id))


def _by_key(session: Session, priority: int) -> dict[str, int]:
    """Queued jobs of higher priority by API key; about one more than `COUNTED` in all if there are more."""
    ahead = select(JobRow.api_key_id).where(_QUEUED, JobRow.priority < priority).limit(COUNTED + 1).subquery()
    statement = select(ahead.c.api_key_id, func.count().label("jobs")).group_by(ahead.c.api_key_id)
    return {found.api_key_id: found.jobs for found in session.execute(statement)}


def _count(session: Session, line: Select[float, str]) -> int:
    return session.scalars(select(func.count().label("jobs")).select_from(line.limit(COUNTED + 1).subquery())).one()


# === How long it takes ===


@dataclass(frozen=True)
class Pace:
    """How fast the line moves."""

    usual_seconds: float | None
    """The median of what the project's last jobs took from their start to their success; `None`: there are none."""
    running: int
    """Jobs of all projects that run now."""


def pace(session: Session, project: str) -> Pace:
    """How long jobs take, and how many run."""
    statement = (
        select(JobRow.started_at, JobRow.finished_at)
        .where(JobRow.project == project, JobRow.status == "succeeded")
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(RECENT)
    )
    took = [finished - started for started, finished in session.execute(statement) if started and finished]
    return Pace(usual_seconds=median(took) if took else None, running=sum(_running(session).values()))
