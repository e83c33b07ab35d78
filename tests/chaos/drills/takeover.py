"""A worker is killed with all below it while it trains: how long until another one has its job?

With two workers the other one takes it when the lease has run out. With one, it is started again first.
"""

import time

from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_most, exactly, percentile
from tests.chaos.run import Site

KIND = "carried optimizer"
BEYOND_LEASE_SECONDS = 10.0


def play(exercise: Exercise) -> Findings:
    """So many kills, each of the worker that has a job."""
    jobs: list[Accepted] = []
    seconds: list[float] = []
    with exercise.site(KIND) as site:
        while len(seconds) < exercise.times:
            steps.until_workers_are_healthy(site)
            jobs.append(steps.submit(site, KIND, f"takeover-{len(jobs)}"))
            taken = _kill_its_worker(site, jobs[-1])
            if taken is not None:
                seconds.append(round(taken, 3))
        verdict = steps.verdict(site, jobs)
    limit = exercise.lease_seconds + BEYOND_LEASE_SECONDS
    figures = {
        "p99 seconds until the next claim": at_most(percentile(seconds, 99), limit),
        "jobs that succeeded": exactly(sum(job.ended == "succeeded" for job in jobs), len(jobs)),
    }
    facts = {
        "lease seconds": exercise.lease_seconds,
        "median seconds until the next claim": percentile(seconds, 50),
        "seconds": seconds,
        "checked": verdict.summary(),
    }
    return Findings(figures, facts, verdict.violations)


def _kill_its_worker(site: Site, job: Accepted) -> float | None:
    """Seconds until the job is running again; `None`: it had ended before anything could be killed."""
    evidence = site.stack.evidence()
    steps.until(lambda: steps.kept_step(evidence, job.id) or _over(site, job))
    worker = steps.worker_of(site.stack, job.id)
    if worker is None:
        steps.see_ended(site, [job])
        return None
    attempt = steps.moves(evidence, job.id)[-1].attempt
    killed_at = time.time()
    steps.kill(site.stack.worker_group(worker))
    steps.see_ended(site, [job])
    claims = [move.at for move in steps.moves(evidence, job.id) if move.attempt > attempt and move.status == "running"]
    return claims[0] - killed_at if claims else None


def _over(site: Site, job: Accepted) -> bool:
    return bool(site.client.look(job)["status"] == "succeeded")


DRILL = Drill(
    promise="the job of a dead worker goes on soon",
    play=play,
    times=30,
    stacks=("production", "embedded"),
)
