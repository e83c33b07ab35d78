"""The broker is restarted again and again. After each time workers must listen again, and take what there is.

What there is: a data file to be checked, the cheapest thing that waits for a worker. It is sent while the broker is
away, or after. With several workers, one that has fallen silent would be hidden by the others; so the connections that
wait for hints are counted, too.
"""

import random
import signal
import time
from dataclasses import dataclass

from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_most, exactly, percentile
from tests.chaos.run import Site

WITHIN_SECONDS = 15.0


@dataclass(frozen=True)
class Restart:
    """One of them."""

    signal: str
    sent: str
    """When the file was: `before` the broker was back, or `after`."""
    taken_seconds: float
    """Until a worker took it, from when both it and the broker were there."""
    listening_seconds: float
    """Until all workers waited for hints, from when the broker was there."""


def play(exercise: Exercise) -> Findings:
    """So many restarts."""
    rng = exercise.rng()
    with exercise.site() as site:
        dataset = _send(site)
        steps.until(lambda: _decided(site, dataset))
        steps.until_workers_are_there(site)
        workers = len(site.stack.find("worker"))
        steps.until(lambda: steps.listening(site.stack) >= workers)
        restarts = [_restart(site, rng, workers) for _ in range(exercise.times)]
    taken = [restart.taken_seconds for restart in restarts]
    listening = [restart.listening_seconds for restart in restarts]
    figures = {
        f"restarts after which a hint was taken within {WITHIN_SECONDS:g} s": exactly(
            sum(seconds <= WITHIN_SECONDS for seconds in taken), exercise.times
        ),
        f"restarts after which all workers listened within {WITHIN_SECONDS:g} s": exactly(
            sum(seconds <= WITHIN_SECONDS for seconds in listening), exercise.times
        ),
        "longest seconds until a hint was taken": at_most(max(taken), WITHIN_SECONDS),
        "longest seconds until all workers listened": at_most(max(listening), WITHIN_SECONDS),
    }
    facts = {
        "workers": workers,
        "median seconds until a hint was taken": round(percentile(taken, 50), 3),
        "median seconds until all workers listened": round(percentile(listening, 50), 3),
        "restarts": [vars(restart) for restart in restarts],
    }
    return Findings(figures, facts)


def _restart(site: Site, rng: random.Random, workers: int) -> Restart:
    stack = site.stack
    number, early = rng.choice([signal.SIGKILL, signal.SIGTERM]), rng.random() < 0.5
    (broker,) = stack.find("broker")
    steps.send([broker], number)
    broker.wait(10)
    dataset = _send(site) if early else None
    steps.until(lambda: steps.broker_answers(stack))
    back = time.monotonic()
    sent = dataset or _send(site)
    ready = time.monotonic() if dataset is None else back
    steps.until(lambda: _taken(site, sent))
    taken = time.monotonic()
    steps.until(lambda: _decided(site, sent))
    steps.until(lambda: steps.listening(stack) >= workers)
    return Restart(
        signal=number.name,
        sent="before" if early else "after",
        taken_seconds=round(taken - ready, 3),
        listening_seconds=round(time.monotonic() - back, 3),
    )


def _send(site: Site) -> str:
    """The id of a new dataset of the file that is there already."""
    answer = site.client.ask("POST", "/v1/datasets", json={"file": site.dataset})
    answer.raise_for_status()
    return str(answer.json()["id"])


def _taken(site: Site, dataset: str) -> bool:
    rows = site.stack.evidence().rows("SELECT attempt FROM datasets WHERE id = ?", dataset)
    return bool(rows[0]["attempt"])


def _decided(site: Site, dataset: str) -> bool:
    rows = site.stack.evidence().rows("SELECT status FROM datasets WHERE id = ?", dataset)
    return bool(rows[0]["status"] == "ready")


DRILL = Drill(
    promise="workers take hints again after each restart of the broker",
    play=play,
    times=50,
    stacks=("production", "embedded"),
)
