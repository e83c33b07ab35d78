"""Sweeping: what nobody else would notice. Every few seconds, in any process, any number of them at once.

    a lease ran out          its worker is dead or cut off: the row waits again, or has failed
    a job is behind time     that nobody has: it fails (one that runs is ended by its worker)
    a job waits for files    that are decided already: it moves on (they move it themselves; this is the second net)
    a hint was lost          the row is rung again
    a job has ended          what it could have gone on from is deleted
    an upload is abandoned   nothing was added to it for a day: it expires
    an upload has ended      its parts are deleted
    records are old          idempotency keys after a day, workers that were not heard of for a day
    events are old           those of single epochs are compacted, `keep_events_days` after the end of their job
    (bytes without a row     `app.services.orphans`, less often)

Each row is changed by compare-and-set in a transaction of its own, so that of two sweepers one does it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from app.domain.overtime import OF_DEADLINE
from app.domain.states import JobStatus
from app.services import attempts, leftovers, overtime, waiting
from app.services.context import Services
from app.services.ringing import Hint, ring
from app.storage import checkpoints, compaction, idempotency, jobs, leases, uploads, workers
from app.storage.database import AWAY, is_out_of_room
from app.storage.leases import AnyLeased, Overdue
from app.storage.rows import dumped
from app.storage.tables import DatasetRow, JobRow, ModelRow

LEASED: tuple[AnyLeased, ...] = (ModelRow, DatasetRow, JobRow)
BATCH = 100
"""Rows of each kind in one sweep; the next one comes in seconds."""
DAY_SECONDS = 86_400.0
FORGOTTEN_KEYS = 1000
"""Idempotency-Keys in one sweep."""
COMPACTED_JOBS = 20
"""In one sweep, which must not keep a worker from announcing itself."""
COMPACTED_EVENTS = 500
"""Of a job in one sweep, and so in one transaction: on SQLite everybody else waits meanwhile."""
DELETING_SECONDS = 2.0
"""In one sweep: each file in a bucket is a request, and a worker that is silent for a lease counts as gone."""

T = TypeVar("T")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did."""

    taken_back: int
    """Attempts whose lease had run out."""
    overdue: int
    """Jobs that waited beyond their deadline."""
    decided: int
    """Jobs that waited for files which were decided."""
    rung: int
    """Hints that were sent again."""
    expired: int
    """Uploads to which nothing was added for too long."""
    compacted: int
    """Events that made room."""


def sweep(services: Services) -> SweepResult:
    """Do all of it once.

    A row that cannot be dealt with keeps no other from being swept, nor does a full disk below SQLite; an
    `ExceptionGroup` at the end has the reasons. A database that does not answer ends it at once.
    """
    swept = _Swept(services)
    result = SweepResult(
        taken_back=sum(swept.each(_expired(services, row), partial(_take_back, row)) for row in LEASED),
        overdue=swept.each(_behind_time(services), _fail_overdue),
        decided=swept.each(_decided(services), _decide),
        rung=swept.once(_ring_again),
        expired=swept.each(_abandoned(services), _expire_upload),
        compacted=swept.each(_whole(services), _compact),
    )
    until = monotonic() + DELETING_SECONDS
    swept.once(partial(_delete_checkpoints, until))
    swept.once(partial(_delete_parts, until))
    swept.once(_forget_old)
    if swept.troubles:
        message = "some rows could not be swept"
        raise ExceptionGroup(message, swept.troubles)
    return result


class _Swept:
    """Goes on with the next row where something is wrong with one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.troubles: list[Exception] = []

    def each(self, found: Iterable[T], act: Callable[[Services, T], int]) -> int:
        """Act on each; the sum of what it says."""
        return sum(self.once(lambda services, one=one: act(services, one)) for one in found)  # type: ignore[misc]

    def once(self, act: Callable[[Services], int]) -> int:
        """Act; 0 if that cannot be done."""
        try:
            return act(self._services)
        except AWAY as error:
            if not (isinstance(error, DBAPIError) and is_out_of_room(error)):
                raise
            self.troubles.append(error)  # it can be read, and what is deleted below makes room
            return 0
        except Exception as error:  # noqa: BLE001 (the edge of a row: it is raised when all others are swept)
            self.troubles.append(error)
            return 0


# === Leases ===


def _expired(services: Services, row: AnyLeased) -> list[Overdue]:
    with services.db.read() as session:
        return leases.expired(session, row, limit=BATCH)


def _take_back(row: AnyLeased, services: Services, found: Overdue) -> int:
    with services.db.begin() as session:
        where = [row.attempt == found.attempt, *leases.ran_out(row)]
        ended = attempts.end(session, row, found.project, found.id, where=where, lost=True)
    if ended is not None:
        ring(services, ended.hints)
    return int(ended is not None)


# === Jobs that wait ===


def _behind_time(services: Services) -> list[tuple[Overdue, JobStatus]]:
    with services.db.read() as session:
        return jobs.behind_time(session, limit=BATCH)


def _fail_overdue(services: Services, found: tuple[Overdue, JobStatus]) -> int:
    each, status = found
    with services.db.begin() as session:
        failure = overtime.named(session, each.project, each.id, OF_DEADLINE)
        failed = jobs.move(
            session, each.project, each.id, old=status, new="failed", news=failure.message,
            where=[jobs.overdue()], values={"error": dumped(failure)},
        )  # fmt: skip
    return int(failed is not None)


def _decided(services: Services) -> list[Overdue]:
    with services.db.read() as session:
        return jobs.decided(session, limit=BATCH)


def _decide(services: Services, found: Overdue) -> int:
    with services.db.begin() as session:
        leases.lock(session, JobRow, found.project, found.id)
        hints = waiting.decide(session, found.project, found.id)
    ring(services, hints)
    return 1


def _ring_again(services: Services) -> int:
    """The pause does not grow: any hint may be the only one that is left. What waits in the broker is bounded there."""
    hints: list[Hint] = []
    seconds = services.settings.ring_again_seconds
    with services.db.begin() as session:
        for row in LEASED:
            due = leases.unrung(session, row, older_than_seconds=seconds, limit=BATCH)
            hints += [Hint(row, each.project, each.id) for each in due]
    return ring(services, hints)


# === What is over ===


def _abandoned(services: Services) -> list[uploads.Overdue]:
    with services.db.read() as session:
        return uploads.overdue(session, limit=BATCH)


def _expire_upload(services: Services, found: uploads.Overdue) -> int:
    with services.db.begin() as session:
        return int(uploads.expire(session, found.project, found.id) is not None)


def _delete_checkpoints(until: float, services: Services) -> int:
    """The bytes first: whoever dies in between leaves a row for the next sweep, and no bytes that nobody knows.

    A store that does not answer is left alone until then, too.
    """
    with services.db.read() as session:
        found = checkpoints.left_over(session, limit=BATCH)
    gone = list(takewhile(lambda each: leftovers.remove(services, each.blobs), _in_time(found, until)))
    with services.db.begin() as session:
        for each in gone:
            checkpoints.remove(session, each.project, each.id)
    return len(gone)


def _delete_parts(until: float, services: Services) -> int:
    """The bytes first, for the same reasons."""
    with services.db.read() as session:
        found = uploads.left_over(session, limit=BATCH)
    gone = list(takewhile(lambda each: leftovers.remove(services, [each.sha256]), _in_time(found, until)))
    with services.db.begin() as session:
        for each in gone:
            uploads.remove_part(session, each.project, each.id)
    return len(gone)


def _in_time(found: Iterable[T], until: float) -> Iterator[T]:
    """The first of them, and the others as long as there is time."""
    for each in found:
        yield each
        if monotonic() >= until:
            return


def _forget_old(services: Services) -> int:
    with services.db.begin() as session:
        workers.remove_silent(session, seconds=DAY_SECONDS)
        return idempotency.remove_old(session, older_than_seconds=DAY_SECONDS, limit=FORGOTTEN_KEYS)


def _whole(services: Services) -> list[Overdue]:
    days = services.settings.keep_events_days
    if not days:
        return []
    with services.db.read() as session:
        return compaction.due(session, after_seconds=days * DAY_SECONDS, limit=COMPACTED_JOBS)


def _compact(services: Services, found: Overdue) -> int:
    with services.db.begin() as session:
        return compaction.compact(session, found.project, found.id, limit=COMPACTED_EVENTS)
