"""Ringing, after the commit.

A row counts as rung from the transaction that made it wait; if the hint then gets nowhere, the row is marked, and
the sweeper rings as soon as it can.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.services.context import Services, TaskName
from app.services.workers import training_queue
from app.storage import leases
from app.storage.leases import AnyLeased
from app.storage.tables import DatasetRow, JobRow, ModelRow

TASKS: Mapping[AnyLeased, TaskName] = {JobRow: "train", ModelRow: "register", DatasetRow: "validate"}


@dataclass(frozen=True)
class Hint:
    """Something that waits for a worker."""

    row: AnyLeased
    project: str
    identifier: str


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
