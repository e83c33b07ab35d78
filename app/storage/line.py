"""The line of queued jobs: who is next, and where a job stands.

    highest priority  ->  the API key with the fewest running jobs  ->  the oldest job

Of all projects, as workers serve all. Nothing here is held or changed: the claim itself is a compare-and-set, and
whoever finds that somebody else was first looks again. Every statement seeks in the index `ix_jobs_line`, so that it
costs the same however long the line is.
"""

from dataclasses import dataclass
from itertools import groupby
from statistics import median

from sqlalchemy import ColumnElement, Double, Integer, Row, ScalarSelect, Select, Text, bindparam, func, select, tuple_
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

# === Statements ===
# Built once: to build one takes longer than to run it. What they are asked with stands in `bindparam`s.

_QUEUED = JobRow.status == JobRow.waiting
_READY = (_QUEUED, JobRow.cancel_requested_at.is_(None), ~jobs.overdue())
_MOST = bindparam("most", type_=Integer())

_URGENT = select(JobRow.priority).where(*_READY).order_by(JobRow.priority).limit(1)
"""The highest priority that anything waits at."""
_RUNNING = select(JobRow.api_key_id, func.count().label("jobs")).where(JobRow.status == JobRow.held)
_RUNNING = _RUNNING.group_by(JobRow.api_key_id)
"""They are as many as workers have devices, so all of them are counted."""
_LINE = (
    select(JobRow.created_at, JobRow.id)
    .where(_QUEUED, JobRow.priority == bindparam("priority"), JobRow.api_key_id == bindparam("key"))
    .order_by(JobRow.created_at, JobRow.id)
)
"""The queued jobs of one key and priority, the oldest first."""
_NEXT_IN_LINE = _LINE.where(*_READY).limit(1)
_AT = _LINE.limit(1).offset(bindparam("turns", type_=Integer()))
Standing = Row[str, int, str, float]
_STANDS = select(JobRow.id, JobRow.priority, JobRow.api_key_id, JobRow.created_at)
_STANDS = _STANDS.where(JobRow.id == bindparam("id"), _QUEUED)
_PLACE = tuple_(bindparam("created_at", type_=Double()), bindparam("id", type_=Text()))
_MORE_URGENT = select(JobRow.api_key_id).where(_QUEUED, JobRow.priority < bindparam("priority")).limit(_MOST).subquery()
_BY_KEY = select(_MORE_URGENT.c.api_key_id, func.count().label("jobs")).group_by(_MORE_URGENT.c.api_key_id)
"""Queued jobs of higher priority by API key, so many at most."""


def _counted(line: Select[float, str]) -> Select[int]:
    return select(func.count().label("jobs")).select_from(line.limit(_MOST).subquery())


_LENGTH = _counted(_LINE)
_OLDER = _counted(_LINE.where(tuple_(JobRow.created_at, JobRow.id) < _PLACE))


def _next_key(*, after: ColumnElement[str] | None = None) -> ScalarSelect[str]:
    row = aliased(JobRow)
    statement = select(func.min(row.api_key_id))
    statement = statement.where(row.status == JobRow.waiting, row.priority == bindparam("priority"))
    return (statement if after is None else statement.where(row.api_key_id > after)).scalar_subquery()


def _all_keys() -> Select[str]:
    """The API keys that have queued jobs of a priority: from each to the next, one seek in the index."""
    keys = select(_next_key().label("key")).cte("keys", recursive=True)
    keys = keys.union_all(select(_next_key(after=keys.c.key)).where(keys.c.key.is_not(None)))
    return select(keys.c.key).where(keys.c.key.is_not(None)).limit(_MOST)


_KEYS = _all_keys()
_TOOK = (
    select(JobRow.run_seconds)
    .where(JobRow.project == bindparam("project"), JobRow.status == "succeeded")
    .order_by(JobRow.created_at.desc(), JobRow.id.desc())
    .limit(RECENT)
)

# === Who is next ===


def first(session: Session) -> str | None:
    """The id of the job that is to be claimed next, or `None` if none waits."""
    for _ in range(LOOKS):
        priority = session.scalars(_URGENT).one_or_none()
        head = None if priority is None else _head(session, priority)
        if priority is None or head is not None:
            return head
    return None


def _head(session: Session, priority: int) -> str | None:
    """The next one of this priority, by its key's share and its age; `None`: others have just taken the last."""
    running = _running(session)
    keys = sorted(_keys(session, priority, most=COUNTED), key=lambda key: running.get(key, 0))
    for _, equal in groupby(keys, key=lambda key: running.get(key, 0)):
        asked = [{"priority": priority, "key": key} for key in equal]
        found = [session.execute(_NEXT_IN_LINE, each).one_or_none() for each in asked]
        heads: list[tuple[float, str]] = [(head.created_at, head.id) for head in found if head is not None]
        if heads:
            return min(heads)[1]
    return None


def _running(session: Session) -> dict[str, int]:
    """Running jobs by API key."""
    return {found.api_key_id: found.jobs for found in session.execute(_RUNNING)}


def _keys(session: Session, priority: int, *, most: int) -> list[str]:
    return list(session.scalars(_KEYS, {"priority": priority, "most": most}))


# === Where a job stands ===


def position(session: Session, identifier: str) -> int | None:
    """From 1: the how-many-th claim takes this job, if no running job ends and no other comes meanwhile.

    `None`: it does not wait, or stands too far behind for that to be counted.
    """
    row = session.execute(_STANDS, {"id": identifier}).one_or_none()
    if row is None:
        return None
    more_urgent = session.execute(_BY_KEY, {"priority": row.priority, "most": COUNTED + 1})
    before = {found.api_key_id: found.jobs for found in more_urgent}
    own = session.scalars(_OLDER, _of(row, row.api_key_id)).one()
    keys = _keys(session, row.priority, most=MAX_KEYS + 1)
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


def _turns_before(session: Session, row: Standing, key: str, *, turns: int) -> int:
    """Jobs of another key that go before: so many that it has as much as the own one, and one more if that is older."""
    if turns < 0:
        return 0
    decisive = session.execute(_AT, {**_of(row, key), "turns": turns}).one_or_none()
    if decisive is None:
        return min(turns, session.scalars(_LENGTH, _of(row, key)).one())
    return turns + int((decisive.created_at, decisive.id) < (row.created_at, row.id))


def _of(row: Standing, key: str) -> dict[str, object]:
    """What is asked about the line of this key, in which the job stands, or beside which it does."""
    return {**row._asdict(), "key": key, "most": COUNTED + 1}


# === How long it takes ===


@dataclass(frozen=True)
class Pace:
    """How fast the line moves."""

    usual_seconds: float | None
    """The median of how long the project's last jobs ran that succeeded, without pauses; `None`: there are none."""
    running: int
    """Jobs of all projects that run now."""


def pace(session: Session, project: str) -> Pace:
    """How long jobs take, and how many run."""
    # 0: it ended before that was counted.
    took = [seconds for seconds in session.scalars(_TOOK, {"project": project}) if seconds]
    return Pace(usual_seconds=median(took) if took else None, running=sum(_running(session).values()))
