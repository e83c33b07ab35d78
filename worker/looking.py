"""Looking: a worker with a free device looks by itself whether a job waits.

A worker that does several kinds of tasks takes hints for trainings also while it trains, and an idle one would hear
nothing of that job until somebody rings again. The sweeper calls `look` with each round.
"""

import threading

from app.domain.worker import WorkerCapabilities
from app.services import claims, workers
from worker.lanes import Lane
from worker.supervisor import Supervisor


class Looking:
    """Begins the job that is next, if one waited at the last look already: hints have had their time to come."""

    def __init__(self, supervisor: Supervisor, lane: Lane) -> None:
        self._supervisor = supervisor
        self._lane = lane
        self._waited = False
        self._threads: list[threading.Thread] = []

    def look(self, worker: WorkerCapabilities) -> None:
        """Begin one in a thread, if there is room. `worker`: what it says about itself now."""
        job_id, waited = self._next(worker), self._waited
        self._waited = job_id is not None and not waited
        if job_id is None or not waited:
            return
        thread = threading.Thread(
            target=self._lane.run, args=(job_id, lambda: self._supervisor.train(job_id)), name="training", daemon=True
        )
        thread.start()
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def _next(self, worker: WorkerCapabilities) -> str | None:
        services = self._supervisor.services
        if self._lane.full or not workers.would_train(services, worker):
            return None
        return claims.next_in_line(services)

    def wait(self) -> None:
        """Wait for what was begun."""
        for thread in self._threads:
            thread.join()
