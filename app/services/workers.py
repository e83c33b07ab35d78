"""Workers: who is there to do the work."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy.orm import Session

from app.domain.worker import WorkerCapabilities, WorkerInfo
from app.services.context import Services
from app.settings import Settings
from app.storage import workers

QueueName = Literal["cpu", "gpu"]
TRAINING = frozenset({"cpu", "gpu"})
"""The queues of trainings; the other one is `prepare`."""


def announce(services: Services, *, worker: str, capabilities: WorkerCapabilities) -> None:
    """Say that a worker is alive. To be repeated, well within `lease_seconds`, or it counts as gone."""
    with services.db.begin() as session:
        workers.announce(session, identifier=worker, capabilities=capabilities.model_dump(mode="json"))


def live(services: Services) -> list[WorkerInfo]:
    """The workers that were heard of within `lease_seconds`."""
    with services.db.read() as session:
        return alive(session, services.settings)


def alive(session: Session, settings: Settings) -> list[WorkerInfo]:
    """The same, inside a transaction."""
    found = workers.seen_within(session, settings.lease_seconds)
    return [WorkerInfo(id=identifier, live=True, **capabilities) for identifier, capabilities in found]


def would_train(services: Services, worker: WorkerCapabilities) -> bool:
    """Whether a worker that says this about itself takes the jobs that wait now."""
    return not worker.draining and takes(worker, training_queue(services))


def takes(worker: WorkerCapabilities, queue: str) -> bool:
    """Whether a worker takes what waits in a queue: one with a full disk keeps its queues, but trains nothing."""
    return queue in worker.queues and not (queue in TRAINING and worker.refuses_training)


def training_queue(services: Services) -> QueueName:
    """Where hints for trainings go: to GPUs if a live worker listens there, else to CPUs."""
    return queue_of(live(services))


def queue_of(found: Sequence[WorkerInfo]) -> QueueName:
    """Where hints for trainings go while these workers live."""
    return "gpu" if any("gpu" in worker.queues for worker in found) else "cpu"


def devices(found: Sequence[WorkerInfo]) -> int:
    """How many jobs these workers train at once."""
    queue = queue_of(found)
    return sum(len(worker.devices) for worker in found if takes(worker, queue))
