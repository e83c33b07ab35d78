"""The Celery tasks: each takes an id to the supervisor, and does nothing else."""

from collections.abc import Callable

from celery import Celery

from app.queue import TASKS, TaskName
from worker.lanes import Lane
from worker.supervisor import Supervisor


def define(celery: Celery, supervisor: Supervisor, *, lanes: dict[TaskName, Lane]) -> None:
    """Give a Celery instance our three tasks."""
    work: dict[TaskName, Callable[[str], None]] = {
        "train": supervisor.train,
        "register": supervisor.register,
        "validate": supervisor.validate,
    }
    for task, carry_out in work.items():
        celery.task(name=TASKS[task])(_in_lane(lanes[task], carry_out))


def _in_lane(lane: Lane, carry_out: Callable[[str], None]) -> Callable[[str], None]:
    def run(identifier: str) -> None:
        lane.run(identifier, lambda: carry_out(identifier))

    return run
