"""Workers: who is there to do the work."""

from app.domain.worker import WorkerCapabilities, WorkerInfo
from app.services.context import Services
from app.storage import workers


def announce(services: Services, *, worker: str, capabilities: WorkerCapabilities) -> None:
    """Say that a worker is alive. To be repeated, well within `lease_seconds`, or it counts as gone."""
    with services.db.begin() as session:
        workers.announce(session, identifier=worker, capabilities=capabilities.model_dump(mode="json"))


def live(services: Services) -> list[WorkerInfo]:
    """The workers that were heard of within `lease_seconds`."""
    with services.db.read() as session:
        found = workers.seen_within(session, services.settings.lease_seconds)
    return [WorkerInfo(id=identifier, live=True, **capabilities) for identifier, capabilities in found]


def training_queue(services: Services) -> str:
    """Where hints for trainings go: to GPUs if a live worker listens there, else to CPUs."""
    return "gpu" if any("gpu" in worker.queues for worker in live(services)) else "cpu"
