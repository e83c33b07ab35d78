"""A worker is stopped past its lease while it trains, another one takes the job, and the first goes on: too late.

Its fence is lifted, by which it would end the attempt by itself as soon as it goes on: only the database keeps it from
writing. What it tries first (a renewal, progress, a checkpoint) must be refused; the job ends as if it had not been.
"""

from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, exactly
from tests.chaos.quick import NO_FENCE
from tests.chaos.run import Site
from tests.chaos.writes import refusals

KIND = "carried optimizer"
LOGGED_SECONDS = 60.0


def play(exercise: Exercise) -> Findings:
    """So many workers, one after the other."""
    jobs: list[Accepted] = []
    stopped = refused = 0
    with exercise.site(KIND, environment=NO_FENCE) as site:
        while stopped < exercise.times:
            steps.until_workers_are_there(site)
            jobs.append(steps.submit(site, KIND, f"zombie-{len(jobs)}"))
            attempt = _outlive(site, jobs[-1])
            steps.see_ended(site, jobs[-1:])
            if attempt is not None:
                stopped += 1
                refused += _is_refused(site, jobs[-1], attempt)
        verdict = steps.verdict(site, jobs)
    figures = {
        "workers whose late writes were refused": exactly(refused, stopped),
        "writes that were taken too late": exactly(sum("not the holder" in each for each in verdict.violations), 0),
        "jobs that succeeded": exactly(sum(job.ended == "succeeded" for job in jobs), len(jobs)),
        "jobs with the weights of an undisturbed one": exactly(verdict.compared, len(jobs)),
    }
    return Findings(figures, {"stopped": stopped, "checked": verdict.summary()}, verdict.violations)


def _outlive(site: Site, job: Accepted) -> int | None:
    """Stop its worker until another attempt has begun; the number of the first. `None`: the job was over before."""
    evidence = site.stack.evidence()
    steps.until(lambda: steps.kept_step(evidence, job.id) or _is_over(site, job))
    worker = steps.worker_of(site.stack, job.id)
    if worker is None:
        return None
    attempt = steps.moves(evidence, job.id)[-1].attempt
    with steps.stopped(site.stack.worker_group(worker)):
        steps.until(lambda: steps.moves(evidence, job.id)[-1].attempt > attempt or _is_over(site, job))
    return attempt if steps.moves(evidence, job.id)[-1].attempt > attempt else None


def _is_over(site: Site, job: Accepted) -> bool:
    return bool(site.client.look(job)["status"] == "succeeded")


def _is_refused(site: Site, job: Accepted, attempt: int) -> bool:
    """Whether the log says so, which it may do a little later."""
    try:
        return bool(steps.until(lambda: refusals(site.stack.logs(), job.id, attempt), seconds=LOGGED_SECONDS))
    except TimeoutError:
        return False


DRILL = Drill(
    promise="a worker that lost its lease writes nothing",
    play=play,
    times=60,
    stacks=("production",),
)
