"""Workers and APIs are restarted by SIGTERM, one after the other, while jobs are created, trained and looked at.

A worker keeps a checkpoint at its next step, gives its job back and leaves; the next attempt goes on from that very
step, and none is charged. An API answers what it has read; whoever comes in between is refused a connection, or has it
closed before the request was read, and asks again (`answers` tells these apart). One that has no time left to leave in
order says so in its log, and what it cut off then is in none: that must not be either.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Self

import psutil

from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.answers import CountingClient, cut_off, server_errors
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_least, at_most, exactly
from tests.chaos.evidence import Evidence, parsed
from tests.chaos.run import Site

KINDS = ("carried optimizer", "dropout")
CROWD = 3
"""Jobs that are open at once, each with a client that looks at it all the time."""
LEAVE_SECONDS = 10.0
_IN_DISORDER = "The API did not stop in time"
"""What an API logs that leaves without waiting for its requests."""
_GLANCE_SECONDS = 0.05


@dataclass(frozen=True)
class Leaving:
    """A worker that was told to stop while it trained."""

    job: str
    attempt: int
    """The one that it gave back."""
    told_step: int
    """Of the last epoch that was told."""
    kept_step: int | None
    """Of the checkpoint that it left after the signal."""
    seconds: float
    """Until it was gone."""


def play(exercise: Exercise) -> Findings:
    """So many restarts, every other one of an API."""
    rng = exercise.rng()
    with exercise.site(*KINDS) as site, _Crowd(site) as crowd:
        leavings: list[Leaving] = []
        api_seconds: list[float] = []
        for number in range(exercise.times):
            if number % 2:
                api_seconds.append(_restart_api(site, rng))
            else:
                leavings.append(_restart_worker(site, rng, leavings))
        crowd.finish()
        evidence = site.stack.evidence()
        verdict = steps.verdict(site, crowd.jobs)
        interruptions = list(filter(None, (_interruption(evidence, leaving) for leaving in leavings)))
        charged = _charged(evidence)
        logs = site.stack.logs()
    trained = [each for each in interruptions if each.trained]
    ended = Counter(str(job.ended) for job in crowd.jobs)
    figures = {
        "attempts that were charged": exactly(charged, 0),
        "steps that were lost after a checkpoint": exactly(sum(each.steps_lost for each in interruptions), 0),
        "interrupted trainings that kept a checkpoint after the signal": exactly(
            sum(each.kept for each in trained), len(trained)
        ),
        "interrupted trainings": at_least(len(trained), exercise.times / 4),
        "longest seconds until a worker had left": at_most(max(each.seconds for each in leavings), LEAVE_SECONDS),
        "longest seconds until an API had left": at_most(max(api_seconds), LEAVE_SECONDS),
        "answers 5xx": exactly(server_errors(crowd.counts), 0),
        "requests that were read and cut off": exactly(len(cut_off(crowd.broken, logs)), 0),
        "APIs that did not leave in order": exactly(logs.count(_IN_DISORDER), 0),
        "jobs that succeeded": exactly(ended["succeeded"], len(crowd.jobs)),
        "jobs": at_least(len(crowd.jobs), CROWD),
    }
    facts = {
        "answers": dict(crowd.counts),
        "requests that were closed without a read": len(crowd.broken) - len(cut_off(crowd.broken, logs)),
        "workers restarted": len(leavings),
        "APIs restarted": len(api_seconds),
        "checked": verdict.summary(),
    }
    return Findings(figures, facts, verdict.violations)


# === Restarts ===


def _restart_worker(site: Site, rng: random.Random, before: Sequence[Leaving]) -> Leaving:
    """Of a worker that trains, a moment after its attempt has begun to."""
    steps.until_workers_are_there(site)
    worker, job, attempt = steps.until(lambda: _training(site, [each.job for each in before[-1:]]))
    time.sleep(rng.uniform(0, 1))
    signalled_at = time.time()
    seconds = _asked_to_leave(worker)
    evidence = site.stack.evidence()
    query = "SELECT max(step) AS step FROM metrics WHERE job_id = ? AND attempt <= ?"
    return Leaving(
        job=job,
        attempt=attempt,
        told_step=evidence.rows(query, job, attempt)[0]["step"],
        kept_step=steps.kept_step(evidence, job, attempt=attempt, since=signalled_at),
        seconds=round(seconds, 3),
    )


def _training(site: Site, but: Sequence[str]) -> tuple[psutil.Process, str, int] | None:
    """A worker, what it trains, and the attempt's number; of which there is an epoch already that could be lost."""
    evidence = site.stack.evidence()
    query = (
        "SELECT id, attempt FROM jobs WHERE status = 'running' AND EXISTS "
        "(SELECT 1 FROM metrics WHERE metrics.job_id = jobs.id AND metrics.attempt = jobs.attempt)"
    )
    for row in evidence.rows(query):
        worker = None if row["id"] in but else steps.worker_of(site.stack, row["id"])
        if worker is not None:
            return worker, row["id"], row["attempt"]
    return None


def _restart_api(site: Site, rng: random.Random) -> float:
    """Seconds until it was gone; comes back when another one answers in its place."""
    apis = steps.until(lambda: site.stack.find("api"))
    api = rng.choice(apis)
    seconds = _asked_to_leave(api)
    steps.until(lambda: len(site.stack.find("api")) >= len(apis))
    site.stack.wait_until_ready()
    return round(seconds, 3)


def _asked_to_leave(process: psutil.Process) -> float:
    """Seconds until it was gone."""
    started = time.monotonic()
    steps.send([process], signal.SIGTERM)
    process.wait(steps.PATIENCE_SECONDS)
    return time.monotonic() - started


# === What the database says ===


@dataclass(frozen=True)
class Interruption:
    """What became of an attempt that was given back."""

    steps_lost: int
    """That it had told of or kept, and that the next attempt trained again."""
    trained: bool
    """Whether it trained at that moment, so that there was a step to end."""
    kept: bool
    """Whether it left a checkpoint after the signal."""


def _interruption(evidence: Evidence, leaving: Leaving) -> Interruption | None:
    """`None`: the attempt ended its job before it could be given back."""
    query = "SELECT data FROM events WHERE job_id = ? AND type IN ('resumed', 'stage') ORDER BY number"
    told = [parsed(row["data"]) for row in evidence.rows(query, leaving.job)]
    if all(move.attempt <= leaving.attempt for move in steps.moves(evidence, leaving.job)):
        return None
    stages = [each["stage"] for each in told if "stage" in each and each["attempt"] == leaving.attempt]
    from_step = [each["step"] for each in told if "step" in each and each["attempt"] == leaving.attempt + 1]
    return Interruption(
        steps_lost=max(0, max(leaving.kept_step or 0, leaving.told_step) - max(from_step, default=0)),
        trained=stages[-1:] == ["training"],
        kept=leaving.kept_step is not None,
    )


def _charged(evidence: Evidence) -> int:
    """Attempts that count as lost, as their jobs tell."""
    told = evidence.rows("SELECT message FROM events WHERE type IN ('status', 'attempt_lost')")
    return sum("was lost" in row["message"] for row in told)


# === Load ===


@dataclass
class _Crowd:
    """Clients that create jobs and look at them all the time, until the block ends."""

    site: Site
    jobs: list[Accepted] = field(default_factory=list)
    counts: "Counter[str]" = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(CROWD)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def finish(self) -> None:
        """No more jobs; wait for those that there are."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _work(self, number: int) -> None:
        stack = self.site.stack
        client = CountingClient(stack.urls, stack.api_key, self.site.history, random.Random(number))  # noqa: S311 (no secret)
        with closing(client):
            try:
                while not self._over.is_set():
                    self._see_one_through(client, number)
            except BaseException as error:  # noqa: BLE001 (the edge of the thread: the drill raises it)
                self.errors.append(error)
        with self._lock:
            self.counts.update(client.counts)
            self.broken += client.broken

    def _see_one_through(self, client: CountingClient, number: int) -> None:
        with self._lock:
            name = f"rolling-{len(self.jobs)}"
            job = steps.submit(self.site, KINDS[number % len(KINDS)], name, client=client)
            self.jobs.append(job)
        while (status := client.look(job)["status"]) not in {"succeeded", "failed", "cancelled"}:
            time.sleep(_GLANCE_SECONDS)
        job.ended = status


DRILL = Drill(
    promise="a restart in order costs no attempt, no step and no answer",
    play=play,
    times=20,
    stacks=("production", "embedded"),
)
