"""The broker loses everything, or is away, while fifty jobs wait and one runs.

It carries hints only, so: no job is lost, the one that runs does not notice, new ones are accepted, and a worker that
has nothing to do takes the next job soon. To be sure that there are hints to lose, workers stand still while the jobs
are submitted; otherwise they would have taken them off at once.

With the settings of real life: quick ones would ring again before anything could be measured.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.answers import CountingClient, server_errors
from tests.chaos.drills.drill import Drill, Exercise, Figure, Findings, at_least, at_most, exactly
from tests.chaos.evidence import Evidence
from tests.chaos.run import Site
from tests.chaos.stacks import Stack

RUNNING = "carried optimizer"
START_SECONDS = 10.0
AWAY_SECONDS = 300.0
_FILLER = b"x" * 10_000
_FILLERS = 20_000
_SLACK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Ordeal:
    """What one blow came to."""

    jobs: list[Accepted]
    server_errors: int
    slowest_post_seconds: float
    hints_lost: int | None
    """`None`: it was not to lose any."""
    longest_wait_seconds: float
    """That a worker was free, the broker there, and a job waited."""
    undisturbed: bool
    """Whether the job that ran went on as if nothing had happened."""


# === Blows ===


@contextmanager
def _flushed(stack: Stack) -> Iterator[None]:
    yield
    with stack.broker() as broker:
        broker.flushall()


@contextmanager
def _killed_without_memory(stack: Stack) -> Iterator[None]:
    yield
    if any(program.target == "broker" for program in stack.programs):
        with steps.broker_away(stack):
            _delete_memory(stack)
    else:  # `thaw up` starts it again after a second
        steps.kill(stack.find("broker"))
        _delete_memory(stack)


def _delete_memory(stack: Stack) -> None:
    for folder in stack.folder.rglob("appendonlydir"):
        shutil.rmtree(folder)


@contextmanager
def _evicted(stack: Stack) -> Iterator[None]:
    """Its memory is full, and it is set up to make room by forgetting what was used least lately."""
    yield
    with stack.broker() as broker:
        used = int(broker.info("memory")["used_memory"])
        broker.config_set("maxmemory-policy", "allkeys-lru")
        broker.config_set("maxmemory", used + _SLACK_BYTES)
        for number in range(_FILLERS):
            broker.set(f"filler-{number}", _FILLER)
            if not steps.waiting_hints(stack):
                break
        broker.config_set("maxmemory", 0)
        broker.config_set("maxmemory-policy", "noeviction")


@contextmanager
def _away(stack: Stack) -> Iterator[None]:
    """From before the jobs are submitted until five minutes are over."""
    with steps.broker_away(stack):
        until = time.monotonic() + AWAY_SECONDS
        yield
        time.sleep(max(0.0, until - time.monotonic()))


@dataclass(frozen=True)
class Blow:
    """Something that happens to the broker, and what the workers do meanwhile."""

    strike: Callable[[Stack], Any]
    """Around the submission of the jobs."""
    one_runs: bool = True
    loses_hints: bool = True
    """Workers stand still, so that there are some."""


BLOWS: Mapping[str, Blow] = {
    "flushed": Blow(_flushed),
    "killed without its memory": Blow(_killed_without_memory),
    "evicted": Blow(_evicted),
    "away": Blow(_away, loses_hints=False),
    "away, workers idle": Blow(_away, one_runs=False, loses_hints=False),
}

# === The drill ===


def play(exercise: Exercise) -> Findings:
    """Each blow in turn."""
    with replace(exercise, slow=True).site("tiny", RUNNING) as site:
        ordeals = {name: _suffer(site, name, blow, exercise.times) for name, blow in BLOWS.items()}
        verdict = steps.verdict(site, [job for ordeal in ordeals.values() for job in ordeal.jobs])
    figures = {f"{name}: {what}": each for name, ordeal in ordeals.items() for what, each in figures_of(ordeal).items()}
    facts: dict[str, object] = {
        name: {"slowest_post_seconds": ordeal.slowest_post_seconds} for name, ordeal in ordeals.items()
    }
    return Findings(figures, {**facts, "checked": verdict.summary()}, verdict.violations)


def figures_of(ordeal: Ordeal) -> dict[str, Figure]:
    """What one blow is judged by; one that was to lose hints and lost none has shown nothing."""
    lost = {} if ordeal.hints_lost is None else {"hints that were lost": at_least(ordeal.hints_lost, 1)}
    return {
        "jobs that succeeded": exactly(sum(job.ended == "succeeded" for job in ordeal.jobs), len(ordeal.jobs)),
        "answers 5xx": exactly(ordeal.server_errors, 0),
        "seconds that a free worker waited": at_most(ordeal.longest_wait_seconds, START_SECONDS),
        "running jobs disturbed": exactly(int(not ordeal.undisturbed), 0),
        **lost,
    }


@dataclass
class _Submission:
    """Fifty jobs, and how their POSTs were answered."""

    site: Site
    name: str
    jobs: list[Accepted] = field(default_factory=list)
    slowest_seconds: float = 0.0
    server_errors: int = 0

    def submit(self, count: int) -> None:
        """One after the other."""
        stack = self.site.stack
        client = CountingClient(stack.urls, stack.api_key, self.site.history, random.Random(0))  # noqa: S311 (no secret)
        for number in range(count):
            started = time.monotonic()
            self.jobs.append(steps.submit(self.site, "tiny", f"{self.name}-{number}", client=client))
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
        self.server_errors = server_errors(client.counts)
        client.close()


def _suffer(site: Site, name: str, blow: Blow, count: int) -> Ordeal:
    name = name.replace(" ", "-").replace(",", "")  # no spaces in an Idempotency-Key
    running = [_run_one(site, name)] if blow.one_runs else []
    before = [job.id for job in running]
    submission = _Submission(site, name)
    with steps.stopped(site.stack.find("worker") if blow.loses_hints else []):
        with blow.strike(site.stack):
            submission.submit(count)
            had = steps.waiting_hints(site.stack) if blow.loses_hints else None
        steps.until(lambda: steps.broker_answers(site.stack))
        back_at = time.time()
        lost = None if had is None else had - steps.waiting_hints(site.stack)
    jobs = [*running, *submission.jobs]
    steps.see_ended(site, jobs)
    evidence = site.stack.evidence()
    return Ordeal(
        jobs=jobs,
        server_errors=submission.server_errors,
        slowest_post_seconds=round(submission.slowest_seconds, 3),
        hints_lost=lost,
        longest_wait_seconds=longest_wait(
            _starts_and_ends(evidence, jobs), since=back_at, slots=len(site.stack.find("worker"))
        ),
        undisturbed=all(len(steps.moves(evidence, job_id)) == 3 for job_id in before),
    )


def _run_one(site: Site, name: str) -> Accepted:
    job = steps.submit(site, RUNNING, f"{name}-running")
    site.client.wait(job, lambda found: found["status"] == "running", seconds=steps.PATIENCE_SECONDS)
    return job


def _starts_and_ends(evidence: Evidence, jobs: Sequence[Accepted]) -> list[tuple[float, int]]:
    """When the number of running jobs went up (1) or down (-1), in order."""
    moves = [move for job in jobs for move in steps.moves(evidence, job.id)[1:]]
    return sorted((move.at, 1 if move.status == "running" else -1) for move in moves)


def longest_wait(changes: Sequence[tuple[float, int]], *, since: float, slots: int) -> float:
    """The longest time from a moment at which a slot was free, and that is not before `since`, to the next start.

    All jobs have been submitted before `since`, so that one waits until the last start.
    """
    longest, running = 0.0, 0
    free_since: float | None = since
    for at, change in changes:
        if change > 0 and free_since is not None and at > since:
            longest = max(longest, at - free_since)
        running += change
        if running >= slots:
            free_since = None
        elif change > 0 or free_since is None:
            free_since = max(at, since)
    return longest


DRILL = Drill(
    promise="the broker may lose everything: no job is lost, and one that waits is taken soon",
    play=play,
    times=50,
    stacks=("embedded", "production"),
)
