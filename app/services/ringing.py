"""Ringing, after the commit.

A row counts as rung from the transaction that made it wait; if the hint then gets nowhere, the row is marked, and
the sweeper rings as soon as it can, or `ring_again_seconds` later where it could not even be marked. What was done is
done: a hint that cannot be sent is no reason to say that it failed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from app.services.context import Doorbell, Services, TaskName
from app.services.workers import training_queue
from app.storage import leases
from app.storage.database import AWAY
from app.storage.leases import AnyLeased
from app.storage.tables import DatasetRow, JobRow, ModelRow

_log = structlog.get_logger(__name__)

TASKS: Mapping[AnyLeased, TaskName] = {JobRow: "train", ModelRow: "register", DatasetRow: "validate"}


@dataclass(frozen=True)
class Hint:
    """Something that waits for a worker."""

    row: AnyLeased
    project: str
    identifier: str


class LateBell:
    """A doorbell whose hints can be held back: nobody may hear of a row before it is committed. For one thread."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._held: list[Hint] | None = None

    def ring(self, task: TaskName, identifier: str, *, queue: str) -> bool:
        """Ring now."""
        return self._doorbell.ring(task, identifier, queue=queue)

    def reachable(self) -> bool:
        """Whether the broker answers now."""
        return self._doorbell.reachable()

    def keep(self, hints: Sequence[Hint]) -> bool:
        """Keep them for later, if hints are held back."""
        if self._held is None:
            return False
        self._held += hints
        return True

    @contextmanager
    def held(self) -> Iterator[list[Hint]]:
        """Hold hints back; the list of them, for `ring` afterwards."""
        held: list[Hint] = []
        self._held = held
        try:
            yield held
        finally:
            self._held = None


def ring(services: Services, hints: Sequence[Hint]) -> int:
    """Send hints, one for each row; how many got through. Raises nothing where broker or database are away."""
    if isinstance(services.doorbell, LateBell) and services.doorbell.keep(hints):
        return len(hints)
    try:
        return _ring(services, hints)
    except AWAY as error:
        _log.warning("database not reached, hints wait for the sweeper", error=repr(error))
        return 0


def _ring(services: Services, hints: Sequence[Hint]) -> int:
    """The first that does not get through ends it: the broker is away."""
    queue = training_queue(services) if any(hint.row is JobRow for hint in hints) else "prepare"
    for sent, hint in enumerate(hints):
        task = TASKS[hint.row]
        if not services.doorbell.ring(task, hint.identifier, queue=queue if task == "train" else "prepare"):
            _ring_later(services, hints[sent:])
            return sent
    return len(hints)


def _ring_later(services: Services, hints: Sequence[Hint]) -> None:
    with services.db.begin() as session:
        for hint in hints:
            leases.mark_unrung(session, hint.row, hint.project, hint.identifier)
