"""Jobs that were set aside because a disk was full go on when there is room, without anybody's asking.

The sweeper of a worker that would train, and has room where jobs write, puts them back into the queue. What the disks
of other workers are like is not known here, so a job may find no room again: each time in a row it then waits twice as
long. A new checkpoint makes it the first time again, and so does a person who resumes it, which works at once.
"""

from app.domain.worker import WorkerCapabilities
from app.services import workers
from app.services.context import Services
from app.services.ringing import Hint, ring
from app.settings import Settings
from app.storage import aside, jobs
from app.storage.database import now
from app.storage.tables import JobRow

BATCH = 100
"""Jobs in one sweep; the next one comes in seconds."""
LONGEST_SECONDS = 3600.0
_DOUBLED = 30
"""Times; beyond that it is long anyway."""


def wait_seconds(settings: Settings, *, times: int) -> float:
    """How long a job waits that has found no room `times` times in a row before."""
    first = settings.storage_retry_seconds
    return min(first * 2.0 ** min(times, _DOUBLED), max(first, LONGEST_SECONDS))


def resume(services: Services, worker: WorkerCapabilities) -> int:
    """Resume what has waited long enough, if this worker would train it now; how many that were."""
    with services.db.read() as session:
        waiting = aside.due(session, limit=BATCH)
    if not waiting or not workers.would_train(services, worker):
        return 0
    hints = []
    for each in waiting:
        with services.db.begin() as session:
            resumed = jobs.move(
                session, each.project, each.id, old="paused", new="queued",
                news="There may be room on the disk again: the job was resumed and waits for a worker.",
                where=aside.waited(), values={"rung_at": now()},
            )  # fmt: skip
        if resumed is not None:
            hints.append(Hint(JobRow, each.project, each.id))
    ring(services, hints)
    return len(hints)
