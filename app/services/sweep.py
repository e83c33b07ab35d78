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

from dataclasses import dataclass

from app.domain import overtime
from app.services import attempts, leftovers, waiting
from app.services.context import Services
from app.services.ringing import Hint, ring
from app.storage import checkpoints, compaction, idempotency, jobs, leases, uploads, workers
from app.storage.leases import AnyLeased
from app.storage.rows import dumped
from app.storage.tables import DatasetRow, JobRow, ModelRow

LEASED: tuple[AnyLeased, ...] = (ModelRow, DatasetRow, JobRow)
BATCH = 100
"""Rows of each kind in one sweep; the next one comes in seconds."""
DAY_SECONDS = 86_400.0
COMPACTED_JOBS = 20
"""In one sweep, which must not keep a worker from announcing itself."""
COMPACTED_EVENTS = 500
"""Of a job in one sweep, and so in one transaction: on SQLite everybody else waits meanwhile."""


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
    """Do all of it once."""
    taken_back = _take_back(services)
    overdue = _fail_overdue(services)
    decided = _decide(services)
    rung = _ring_again(services)
    expired = _expire_uploads(services)
    _delete_checkpoints(services)
    _delete_parts(services)
    _forget_old(services)
    compacted = _compact(services)
    return SweepResult(
        taken_back=taken_back, overdue=overdue, decided=decided, rung=rung, expired=expired, compacted=compacted
    )


def _take_back(services: Services) -> int:
    count = 0
    for row in LEASED:
        with services.db.read() as session:
            overdue = leases.expired(session, row, limit=BATCH)
        for each in overdue:
            with services.db.begin() as session:
                where = [row.attempt == each.attempt, *leases.ran_out(row)]
                ended = attempts.end(session, row, each.project, each.id, where=where, lost=True)
            if ended is not None:
                count += 1
                ring(services, ended.hints)
    return count


def _fail_overdue(services: Services) -> int:
    with services.db.read() as session:
        behind = jobs.behind_time(session, limit=BATCH)
    count = 0
    for each, status in behind:
        with services.db.begin() as session:
            failure = overtime.named(overtime.OF_DEADLINE, checkpoints.newest_weights(session, each.project, each.id))
            failed = jobs.move(
                session, each.project, each.id, old=status, new="failed", news=failure.message,
                where=[jobs.overdue()], values={"error": dumped(failure)},
            )  # fmt: skip
        count += failed is not None
    return count


def _decide(services: Services) -> int:
    with services.db.read() as session:
        overdue = jobs.decided(session, limit=BATCH)
    count = 0
    for each in overdue:
        with services.db.begin() as session:
            leases.lock(session, JobRow, each.project, each.id)
            hints = waiting.decide(session, each.project, each.id)
        count += 1
        ring(services, hints)
    return count


def _ring_again(services: Services) -> int:
    hints: list[Hint] = []
    seconds = services.settings.ring_again_seconds
    with services.db.begin() as session:
        for row in LEASED:
            due = leases.unrung(session, row, older_than_seconds=seconds, limit=BATCH)
            hints += [Hint(row, each.project, each.id) for each in due]
    return ring(services, hints)


def _expire_uploads(services: Services) -> int:
    with services.db.read() as session:
        overdue = uploads.overdue(session, limit=BATCH)
    count = 0
    for each in overdue:
        with services.db.begin() as session:
            expired = uploads.expire(session, each.project, each.id)
        count += expired is not None
    return count


def _delete_checkpoints(services: Services) -> None:
    """The files first: whoever dies in between leaves a row for the next sweep, and no bytes that nobody knows."""
    with services.db.read() as session:
        found = checkpoints.left_over(session, limit=BATCH)
    for each in found:
        if not leftovers.remove(services, each.blobs):
            return
        with services.db.begin() as session:
            checkpoints.remove(session, each.project, each.id)


def _delete_parts(services: Services) -> None:
    """The bytes first, for the same reason."""
    with services.db.read() as session:
        found = uploads.left_over(session, limit=BATCH)
    if not found or not leftovers.remove(services, [each.sha256 for each in found]):
        return
    with services.db.begin() as session:
        for each in found:
            uploads.remove_part(session, each.project, each.id)


def _forget_old(services: Services) -> None:
    with services.db.begin() as session:
        idempotency.remove_old(session, older_than_seconds=DAY_SECONDS)
        workers.remove_silent(session, seconds=DAY_SECONDS)


def _compact(services: Services) -> int:
    days = services.settings.keep_events_days
    if not days:
        return 0
    with services.db.read() as session:
        found = compaction.due(session, after_seconds=days * DAY_SECONDS, limit=COMPACTED_JOBS)
    count = 0
    for each in found:
        with services.db.begin() as session:
            count += compaction.compact(session, each.project, each.id, limit=COMPACTED_EVENTS)
    return count
