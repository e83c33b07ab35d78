"""Ringing, after the commit.

A row counts as rung from the transaction that made it wait; if the hint then gets nowhere, the row is marked, and
the sweeper rings as soon as it can.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.services.context import Doorbell, Services, TaskName
from app.services.workers import training_queue
from app.storage import leases
from app.storage.leases import AnyLeased
from app.storage.tables import DatasetRow, JobRow, ModelRow

Ring = tuple[TaskName, str, str]
"""Task, id, queue."""

TASKS: Mapping[AnyLeased, TaskName] = {JobRow: "train", ModelRow: "register", DatasetRow: "validate"}


@dataclass(frozen=True)
class Hint:
    """Something that waits for a worker."""

    row: AnyLeased
    project: str
    identifier: str


class LateBell:
    """A doorbell that can be held back: nobody may hear of a row before it is committed. For one thread."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._held: list[Ring] | None = None

    def ring(self, task: TaskName, identifier: str, *, queue: str) -> bool:
        """Ring, or remember to."""
        if self._held is None:
            return self._doorbell.ring(task, identifier, queue=queue)
        self._held.append((task, identifier, queue))
        return True

    def reachable(self) -> bool:
        """Whether the broker answers now."""
        return self._doorbell.reachable()

    @contextmanager
    def held(self) -> Iterator[list[Ring]]:
        """Remember what is rung instead; the list of it, for `ring_late`."""
        held: list[Ring] = []
        self._held = held
        try:
            yield held
        finally:
            self._held = None


def ring_late(services: Services, project: str, held: Sequence[Ring]) -> None:
    """Ring what was held back, after the commit."""
    rows = {task: row for row, task in TASKS.items()}
    for done, (task, identifier, queue) in enumerate(held):
        if not services.doorbell.ring(task, identifier, queue=queue):
            _ring_later(services, [Hint(rows[task], project, identifier) for task, identifier, _ in held[done:]])
            return


def ring(services: Services, hints: list[Hint]) -> int:
    """Send hints, one for each row; how many got through. The first that does not ends it: the broker is away."""
    queue = training_queue(services) if any(hint.row is JobRow for hint in hints) else "prepare"
    for sent, hint in enumerate(hints):
        task = TASKS[hint.row]
        if not services.doorbell.ring(task, hint.identifier, queue=queue if task == "train" else "prepare"):
            _ring_later(services, hints[sent:])
            return sent
    return len(hints)


def _ring_later(services: Services, hints: list[Hint]) -> None:
    with services.db.begin() as session:
        for hint in hints:
            leases.mark_unrung(session, hint.row, hint.project, hint.identifier)
