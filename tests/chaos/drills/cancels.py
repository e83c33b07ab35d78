"""Cancels and pauses at random moments: while the job waits, runs or ends, without its worker, without a broker.

Asked for is: it stops soon, never runs again unless it is resumed, and one that was paused and resumed ends in the
weights of an undisturbed run. Where the worker is dead nothing runs any more; that the job is over is seen when its
lease has run out.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.clients import TERMINAL, Accepted, Client
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_least, at_most, exactly, percentile
from tests.chaos.evidence import Evidence
from tests.chaos.run import WINDOW, Site

KINDS = ("carried optimizer", "dropout")
STOP_SECONDS = 10.0
OUTLIVE_SECONDS = 2.0
"""How long a process may still be seen after its job has stopped; a worker ends it before it says so."""
_LOOK_SECONDS = 0.25
Surroundings = Literal["healthy", "worker dead", "broker away"]
SHARES: dict[Surroundings, float] = {"healthy": 0.8, "worker dead": 0.1, "broker away": 0.1}
AHEAD_SECONDS = 1.0
"""Some are stopped while they wait: this long a time before they would run counts as such a moment."""


@dataclass(frozen=True)
class Stop:
    """A job that was to stop, and when that was asked for."""

    job: Accepted
    wish: Literal["cancel", "pause"]
    surroundings: Surroundings
    asked_at: float
    answer: int
    """200, or 409: it had ended."""
    stopped_at: float
    """When it was in a status in which nothing runs."""
    outlived_seconds: float = 0.0
    """For how long after that a process of it was seen nevertheless."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.stopped_at - self.asked_at)


def play(exercise: Exercise) -> Findings:
    """So many of them: most of them several at once, those in bad surroundings one by one."""
    plan = _Plan(exercise.rng(), exercise.times)
    with exercise.site(*KINDS) as site:
        plan.longest_seconds = max(_ran_seconds(site.stack.evidence(), job_id) for job_id in site.references.values())
        stops = _several_at_once(site, plan)
        stops += [_without_worker(site, plan, number) for number in range(plan.count("worker dead"))]
        stops += [_without_broker(site, plan, number) for number in range(plan.count("broker away"))]
        steps.see_ended(site, [stop.job for stop in stops])
        verdict = steps.verdict(site, [stop.job for stop in stops])
        later = [line for stop in stops for line in _ran_later(site, stop)]
    return _findings(stops, later, verdict.violations, lease_seconds=exercise.lease_seconds)


def _findings(stops: Sequence[Stop], later: list[str], violations: Sequence[str], *, lease_seconds: float) -> Findings:
    def seconds(*wanted: Surroundings) -> list[float]:
        return [round(stop.seconds, 3) for stop in stops if stop.surroundings in wanted and stop.answer == 200]

    there, gone = seconds("healthy", "broker away"), seconds("worker dead")
    resumed = [stop for stop in stops if stop.wish == "pause" and stop.answer == 200]
    figures = {
        "p99 seconds until it stops": at_most(percentile(there, 99), STOP_SECONDS),
        "p99 seconds until it has stopped for a dead worker": at_most(
            percentile(gone, 99), lease_seconds + STOP_SECONDS
        ),
        "longest seconds that a process outlived the stop of its job": at_most(
            max((stop.outlived_seconds for stop in stops), default=math.inf), OUTLIVE_SECONDS
        ),
        "jobs that ran after they had stopped": exactly(len(later), 0),
        "resumed jobs that succeeded": exactly(sum(stop.job.ended == "succeeded" for stop in resumed), len(resumed)),
        "stops that were granted": at_least(len(there) + len(gone), len(stops) / 2),
    }
    facts = {
        "median seconds until it stops": percentile(there, 50),
        "longest seconds until it stops": max(there, default=0.0),
        "seconds for a dead worker": gone,
        "cancelled": sum(stop.wish == "cancel" and stop.answer == 200 for stop in stops),
        "paused and resumed": len(resumed),
        "had ended": sum(stop.answer == 409 for stop in stops),
    }
    return Findings(figures, facts, [*violations, *later])


@dataclass
class _Plan:
    """What is asked for when, drawn by chance."""

    rng: random.Random
    times: int
    longest_seconds: float = 0.0
    """Of the undisturbed jobs."""

    def count(self, surroundings: Surroundings) -> int:
        """How many of all are in these."""
        return max(1, round(self.times * SHARES[surroundings]))

    def wish(self) -> Literal["cancel", "pause"]:
        return self.rng.choice(["cancel", "pause"])

    def moment(self) -> float:
        """Seconds since the job began to run; negative: before."""
        return self.rng.uniform(-AHEAD_SECONDS, self.longest_seconds)


def _ran_seconds(evidence: Evidence, job_id: str) -> float:
    moves = steps.moves(evidence, job_id)
    return moves[-1].at - moves[1].at


# === One stop ===


def _submit(site: Site, client: Client, name: str, wish: Literal["cancel", "pause"], rng: random.Random) -> Accepted:
    return steps.submit(site, rng.choice(KINDS), name, wish=wish, client=client)


def _stop(site: Site, client: Client, job: Accepted, wish: Literal["cancel", "pause"], around: Surroundings) -> Stop:
    """Ask, and wait until nothing of it runs."""
    asked_at = time.time()
    answer = client.do(job, wish)
    wanted = {"paused", *TERMINAL}
    client.wait(job, lambda found: found["status"] in wanted, seconds=steps.PATIENCE_SECONDS)
    last = next(move for move in steps.moves(site.stack.evidence(), job.id) if move.status in wanted)
    outlived = outlived_seconds(lambda: steps.children_of(site.stack, job.id), last.at)
    return Stop(job, wish, around, asked_at, answer, last.at, outlived)


def outlived_seconds(find: Callable[[], object], stopped_at: float) -> float:
    """Seconds from a stop (Unix time) to the last moment at which something was found.

    Looked for at least as long as it may be there, then until it is gone, up to `STOP_SECONDS` more: a job that trains
    on after it was stopped would be at its end before all others are.
    """
    last = stopped_at
    until = max(time.time(), stopped_at) + OUTLIVE_SECONDS
    latest = until + STOP_SECONDS
    while time.time() < min(until, latest):
        if find():
            last = time.time()
            until = last + OUTLIVE_SECONDS
        time.sleep(_LOOK_SECONDS)
    return max(0.0, last - stopped_at)


def _resume(client: Client, stop: Stop, *, after_seconds: float) -> None:
    if stop.wish == "pause" and stop.answer == 200:
        time.sleep(after_seconds)
        client.do(stop.job, "resume")


def _wait_for(site: Site, client: Client, job: Accepted, moment: float) -> None:
    """Until so long after it began to run; at once if that is negative."""
    if moment >= 0:
        client.wait(job, lambda found: found["status"] == "running", seconds=steps.PATIENCE_SECONDS)
        moves = [move.at for move in steps.moves(site.stack.evidence(), job.id) if move.status == "running"]
        time.sleep(max(0.0, (moves[0] if moves else 0.0) + moment - time.time()))


def _ran_later(site: Site, stop: Stop) -> Iterator[str]:
    """What the database or the kernel says of a job that ran after it had stopped for good."""
    if stop.wish == "cancel" and stop.answer == 200:
        for move in steps.moves(site.stack.evidence(), stop.job.id):
            if move.status == "running" and move.at > stop.stopped_at:
                yield f"{stop.job.id} was cancelled at {stop.stopped_at}, and attempt {move.attempt} began {move.at}"
    for child in steps.children_of(site.stack, stop.job.id):
        yield f"{stop.job.id} has ended, and process {child.pid} works on it"


# === Surroundings ===


@dataclass
class _Several:
    """Clients in threads, as many jobs open as in a chaos run."""

    site: Site
    plan: _Plan
    stops: list[Stop] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = iter(range(self.plan.count("healthy")))
        self._lock = threading.Lock()

    def run(self) -> list[Stop]:
        """All of them."""
        threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(WINDOW)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.stops

    def _work(self, number: int) -> None:
        stack = self.site.stack
        with closing(Client(stack.urls, stack.api_key, self.site.history, random.Random(number))) as client:  # noqa: S311 (no secret)
            try:
                while (drawn := self._next()) is not None:
                    self._do(client, *drawn)
            except BaseException as error:  # noqa: BLE001 (the edge of the thread: the drill raises it)
                self.errors.append(error)

    def _next(self) -> tuple[int, Literal["cancel", "pause"], float] | None:
        with self._lock:
            number = next(self._numbers, None)
            return None if number is None else (number, self.plan.wish(), self.plan.moment())

    def _do(self, client: Client, number: int, wish: Literal["cancel", "pause"], moment: float) -> None:
        job = _submit(self.site, client, f"stop-{number}", wish, random.Random(number))  # noqa: S311 (no secret)
        _wait_for(self.site, client, job, moment)
        stop = _stop(self.site, client, job, wish, "healthy")
        _resume(client, stop, after_seconds=abs(moment) / 4)
        self.stops.append(stop)


def _several_at_once(site: Site, plan: _Plan) -> list[Stop]:
    return _Several(site, plan).run()


def _without_worker(site: Site, plan: _Plan, number: int) -> Stop:
    """The worker that has the job is killed with all below it, and then the wish is uttered."""
    steps.until_workers_are_healthy(site)
    job, wish = _running(site, plan, f"dead-{number}")
    worker = steps.worker_of(site.stack, job.id)
    steps.kill(site.stack.worker_group(worker) if worker else [])
    stop = _stop(site, site.client, job, wish, "worker dead" if worker else "healthy")
    _resume(site.client, stop, after_seconds=0)
    steps.see_ended(site, [job])
    return stop


def _without_broker(site: Site, plan: _Plan, number: int) -> Stop:
    """A job that runs is stopped, and resumed, while nobody reaches the broker."""
    job, wish = _running(site, plan, f"silent-{number}")
    with steps.broker_away(site.stack):
        stop = _stop(site, site.client, job, wish, "broker away")
        _resume(site.client, stop, after_seconds=0)
    steps.see_ended(site, [job])
    return stop


def _running(site: Site, plan: _Plan, name: str) -> tuple[Accepted, Literal["cancel", "pause"]]:
    wish = plan.wish()
    job = _submit(site, site.client, name, wish, plan.rng)
    _wait_for(site, site.client, job, abs(plan.moment()) / 2)
    return job, wish


DRILL = Drill(
    promise="what is cancelled or paused stops soon, and what is resumed ends as if nothing had been",
    play=play,
    times=100,
    stacks=("embedded", "production"),
)
