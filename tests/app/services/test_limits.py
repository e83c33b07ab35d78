"""`max_seconds` and `deadline_at`: what a worker is told, and what the sweeper ends."""

from typing import Any

import pytest
from sqlalchemy import select

from app.domain import overtime
from app.domain.again import ForkRequest
from app.domain.errors import InvalidRequestError
from app.domain.job import ForkedFrom
from app.domain.progress import WeightsKept
from app.services import again, claims, failing, history, jobs, reports
from app.services.context import Services
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import JobRow


def _ran(world: Any, claim: claims.JobClaim, seconds: float) -> None:
    """The attempt has run for so long."""
    world.set(JobRow, claim.identifier, attempt_started_at=now() - seconds)


def _left(claim: claims.JobClaim) -> float:
    assert claim.allowance.run_seconds is not None
    return claim.allowance.run_seconds


def test_without_limits_a_job_runs_as_long_as_it_takes(world: Any, services: Services) -> None:
    claim = world.claim()
    assert claim.allowance == claims.Allowance()
    _ran(world, claim, 1e6)
    assert claims.release(services, claim, charge_attempt=False) == "waits"


def test_attempts_share_one_budget_and_waiting_costs_nothing(world: Any, services: Services) -> None:
    job = world.job(max_seconds=100)
    first = world.claim(job)
    assert _left(first) == 100
    _ran(world, first, 60)
    assert claims.release(services, first, charge_attempt=False) == "waits"
    jobs.request_pause(services, "default", job.id)
    jobs.resume(services, "default", job.id)
    assert 30 < _left(world.claim(job)) <= 40


@pytest.mark.parametrize("wish", ["nothing", "pause"])
def test_a_job_that_used_its_time_up_fails_when_it_is_given_back(world: Any, services: Services, wish: str) -> None:
    claim = world.claim(world.job(max_seconds=100))
    if wish == "pause":
        jobs.request_pause(services, "default", claim.identifier)
    _ran(world, claim, 101)
    assert claims.release(services, claim, charge_attempt=False) == "failed"
    error = world.get(claim).error
    assert error is not None
    assert (error.error_class, error.code, error.param) == ("budget", "time_budget_exceeded", "max_seconds")


def test_a_job_that_used_its_time_up_and_was_to_be_cancelled_is_cancelled(world: Any, services: Services) -> None:
    claim = world.claim(world.job(max_seconds=100))
    jobs.request_cancel(services, "default", claim.identifier)
    _ran(world, claim, 101)
    assert claims.release(services, claim, charge_attempt=False) == "cancelled"


def test_time_after_a_dead_workers_lease_is_not_counted(world: Any, services: Services) -> None:
    claim = world.claim(world.job(max_seconds=100))
    world.set(JobRow, claim.identifier, attempt_started_at=now() - 5000, lease_expires_at=now() - 4950)
    sweep(services)
    assert 45 < _left(world.claim(claim.job)) < 55


def test_a_dead_workers_job_that_used_its_time_up_fails_in_the_sweep(world: Any, services: Services) -> None:
    claim = world.claim(world.job(max_seconds=100))
    world.set(JobRow, claim.identifier, attempt_started_at=now() - 5000, lease_expires_at=now() - 4800)
    assert sweep(services).taken_back == 1
    failed = world.get(claim)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "time_budget_exceeded")


@pytest.mark.parametrize("how", ["given back", "dead worker", "worker's own", "deadline"])
def test_the_failure_names_the_newest_weights_that_a_fork_may_start_from(
    world: Any, services: Services, how: str
) -> None:
    claim = world.claim(world.job(max_seconds=100, deadline_at=9e9))
    end, files = world.phase_end(), {"c/1.weights": world.artifact("1.weights")}
    reports.progress(services, claim, [world.epoch(4), end], checkpoints=files)
    told = WeightsKept(
        which="last", phase=world.place(2, phase=2, name="all"), step=47, metrics={}, checkpoint="c/1.weights"
    )
    for kept in ([], [told]):
        reports.progress(services, claim, kept, checkpoints=files)
    _ran(world, claim, 101)
    if how == "given back":
        claims.release(services, claim, charge_attempt=False)
    elif how == "worker's own":
        failing.attempt_failed(services, claim, overtime.OF_ATTEMPTS)
    elif how == "dead worker":
        world.set(JobRow, claim.identifier, attempt_started_at=now() - 5000, lease_expires_at=now() - 4800)
        sweep(services)
    else:
        world.set(JobRow, claim.identifier, attempt_started_at=now())
        claims.release(services, claim, charge_attempt=False)
        world.set(JobRow, claim.identifier, deadline_at=now() - 1)
        sweep(services)
    newest = history.checkpoints(services, "default", claim.identifier, PageQuery()).items[0]
    failed = world.get(claim)
    assert failed.error.error_class == "budget"
    assert f"step 47, in phase 'all' are kept as '{newest.id}'" in failed.error.message
    assert "with more time for what is left" in failed.error.message
    fork = again.fork(services, "default", failed.id, ForkRequest())
    assert fork.forked_from == ForkedFrom(job=failed.id, checkpoint=newest.id)


@pytest.mark.parametrize("how", ["given back", "dead worker"])
def test_an_attempt_ends_within_its_time_though_nobody_here_can_read_the_specification(
    world: Any, services: Services, how: str
) -> None:
    claim = world.claim(world.job(max_seconds=100))
    files = {"c/1.weights": world.artifact("1.weights")}
    reports.progress(services, claim, [world.epoch(4), world.phase_end()], checkpoints=files)
    world.set(JobRow, claim.identifier, spec={"of": "a later version"})
    if how == "given back":
        assert claims.release(services, claim, charge_attempt=False) == "waits"
    else:
        world.expire(JobRow, claim.identifier)
        assert sweep(services).taken_back == 1
    with services.db.read() as session:
        assert session.scalars(select(JobRow.status).where(JobRow.id == claim.identifier)).one() == "queued"


@pytest.mark.parametrize(
    ("ended", "more"), [(2, {}), (1, {"optimizer_state": "carry"})], ids=["in evaluation", "before carried moments"]
)
def test_a_failure_says_if_a_fork_has_to_say_what_to_train(
    world: Any, services: Services, ended: int, more: dict[str, str]
) -> None:
    phases = [{"name": "head", "epochs": 4}, {"name": "all", "unfreeze": "all", "epochs": 4, **more}]
    claim = world.claim(world.job(max_seconds=100, schedule=phases))
    told = [world.phase_end(phase=index + 1, name=("head", "all")[index]) for index in range(ended)]
    reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact("1.weights")})
    failing.attempt_failed(services, claim, overtime.OF_ATTEMPTS)
    failed = world.get(claim)
    assert "fork it from there, with a `schedule` of what to train" in failed.error.message
    with pytest.raises(InvalidRequestError, match="`schedule`"):
        again.fork(services, "default", failed.id, ForkRequest())
    assert again.fork(services, "default", failed.id, ForkRequest(schedule="full")).forked_from is not None


def test_without_weights_the_failure_says_so(world: Any, services: Services) -> None:
    claim = world.claim(world.job(max_seconds=100))
    failing.attempt_failed(services, claim, overtime.OF_ATTEMPTS)
    assert "no weights are kept" in world.get(claim).error.message


# === Deadlines ===


@pytest.mark.parametrize("status", ["validating_files", "queued", "paused"])
def test_a_job_that_waits_beyond_its_deadline_fails(world: Any, services: Services, status: str) -> None:
    files = {"model": world.file().id} if status == "validating_files" else {}
    job, other = world.job(deadline_at=9e9, **files), world.job(deadline_at=9e9)
    if status == "paused":
        jobs.request_pause(services, "default", job.id)
    assert sweep(services).overdue == 0
    world.set(JobRow, job.id, deadline_at=now() - 1)
    assert sweep(services).overdue == 1
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.error_class, failed.error.code) == ("failed", "budget", "deadline_exceeded")
    last = history.events_since(services, "default", job.id, after_number=0)[-1]
    assert (last.type, last.level) == ("completed", "error")
    assert world.get(other).status == "queued"
    assert sweep(services).overdue == 0


def test_a_job_beyond_its_deadline_is_not_claimed(world: Any, services: Services) -> None:
    job = world.job(deadline_at=9e9)
    world.set(JobRow, job.id, deadline_at=now() - 1)
    assert claims.claim_job(services, job.id, worker="w") is None
    assert world.get(job).status == "queued"


def test_a_running_job_is_its_workers_who_knows_the_deadline(world: Any, services: Services) -> None:
    job = world.job(deadline_at=9e9)
    world.set(JobRow, job.id, deadline_at=now() + 50)
    claim = world.claim(job)
    assert claim.allowance.until_deadline_seconds is not None
    assert 40 < claim.allowance.until_deadline_seconds <= 50
    world.set(JobRow, job.id, deadline_at=now() - 1)
    assert sweep(services).overdue == 0
    assert world.succeed(claim).status == "succeeded"
