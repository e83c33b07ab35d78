"""Tallies: the state of the whole service in numbers, over all projects, for those who run it."""

from dataclasses import dataclass

from app.domain.states import SERVED, JobStatus, Priority, rank_of
from app.domain.worker import WorkerInfo
from app.services import workers
from app.services.context import Services
from app.storage import tallies
from app.storage.tallies import CachedPhases, Ending, Held, StageTime

RECENT = tallies.RECENT
"""Numbers about `recent` jobs are about so many, the newest ones."""


@dataclass(frozen=True)
class Tallies:
    """What there is, and how the newest jobs went."""

    jobs: dict[JobStatus, int]
    queued: dict[Priority, int]
    """By priority."""
    waiting: dict[str, int]
    """What could be claimed now, by queue: `prepare`, and `cpu` or `gpu`, wherever hints for trainings go now."""
    oldest_waiting_seconds: float
    """Age of the job that has waited longest in the queue; 0: none waits."""
    held: dict[str, Held]
    """By kind: `job`, `model`, `dataset`."""
    workers: list[WorkerInfo]
    endings: list[Ending]
    stages: list[StageTime]
    caching: list[CachedPhases]


def take(services: Services) -> Tallies:
    """Count everything once, in one transaction that reads."""
    live = workers.live(services)
    with services.db.read() as session:
        waiting = tallies.waiting(session)
        return Tallies(
            jobs=tallies.jobs_by_status(session),
            queued=_by_priority(tallies.queued_by_priority(session)),
            waiting=_by_queue(waiting, training=workers.queue_of(live)),
            oldest_waiting_seconds=tallies.oldest_waiting_seconds(session) or 0.0,
            held=tallies.held(session),
            workers=live,
            endings=tallies.recent_endings(session),
            stages=tallies.recent_stages(session),
            caching=tallies.recent_caching(session),
        )


def waiting(services: Services) -> dict[str, int]:
    """What could be claimed now, by queue."""
    live = workers.live(services)
    with services.db.read() as session:
        return _by_queue(tallies.waiting(session), training=workers.queue_of(live))


def _by_priority(queued: dict[int, int]) -> dict[Priority, int]:
    return {priority: queued.get(rank_of(priority), 0) for priority in SERVED}


def _by_queue(waiting: dict[str, int], *, training: str) -> dict[str, int]:
    empty = {"prepare": 0, "cpu": 0, "gpu": 0}
    return {**empty, "prepare": waiting["model"] + waiting["dataset"], training: waiting["job"]}
