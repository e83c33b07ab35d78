"""Claims: one holder at a time, and whoever lost it writes nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from app.domain.errors import Failure, LeaseLostError
from app.domain.model import ModelOptions
from app.services import claims, datasets, jobs, models, reports
from app.services.context import Services
from app.storage.tables import DatasetRow, JobRow, ModelRow

BROKEN = Failure(error_class="user", code="x", message="It is broken.")


def test_a_claim_runs_the_job_with_its_model_and_dataset(world: Any) -> None:
    job = world.job()
    claim = world.claim(job, worker="w7")
    assert (claim.project, claim.attempt, claim.identifier) == ("default", 1, job.id)
    assert (claim.model.id, claim.dataset.id) == (job.model_id, job.dataset_id)
    assert claim.model.canonical
    running = world.get(job)
    assert (running.status, running.attempt.number, running.attempt.worker) == ("running", 1, "w7")
    assert running.started_at is not None
    assert running.attempt.lease_expires_at is not None
    assert 25 < running.attempt.lease_expires_at - running.started_at < 35


@pytest.mark.parametrize("identifier", ["ftjob-unknown", "model-unknown"])
def test_a_hint_for_nothing_is_no_error(services: Services, identifier: str) -> None:
    assert claims.claim_job(services, identifier, worker="w") is None
    assert claims.claim_model(services, identifier, worker="w") is None
    assert claims.claim_dataset(services, identifier, worker="w") is None


def test_of_many_workers_exactly_one_gets_the_job(world: Any, services: Services) -> None:
    for _ in range(5):
        job = world.job()
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(lambda n: claims.claim_job(services, job.id, worker=f"w{n}"), range(4)))  # noqa: B023 (all are done before the next job)
        assert len([claim for claim in got if claim]) == 1
        assert world.get(job).attempt.number == 1


def test_a_running_job_cannot_be_claimed_again(world: Any, services: Services) -> None:
    claim = world.claim()
    assert claims.claim_job(services, claim.identifier, worker="w2") is None


def test_renewing_moves_the_end_of_the_lease(world: Any, services: Services) -> None:
    claim = world.claim()
    before = world.get(claim)
    world.set(JobRow, claim.identifier, lease_expires_at=before.attempt.lease_expires_at - 20)
    assert claims.renew(services, claim) is True
    after = world.get(claim)
    assert after.attempt.lease_expires_at >= before.attempt.lease_expires_at
    assert after.updated_at == before.updated_at


def test_claim_against_cancel_ends_in_one_of_the_two(world: Any, services: Services) -> None:
    for _ in range(6):
        job = world.job()
        with ThreadPoolExecutor(2) as threads:
            claiming = threads.submit(claims.claim_job, services, job.id, worker="w")
            threads.submit(jobs.request_cancel, services, "default", job.id).result()
        after = world.get(job)
        assert after.cancel_requested_at is not None
        if claiming.result() is None:
            assert after.status == "cancelled"
        else:
            assert after.status == "running"
            assert claims.wishes(services, claiming.result()).cancel


def test_a_queued_job_that_was_to_be_cancelled_is_cancelled_by_its_claim(world: Any, services: Services) -> None:
    job = world.job()
    world.set(JobRow, job.id, cancel_requested_at=1.0)
    assert claims.claim_job(services, job.id, worker="w") is None
    assert world.get(job).status == "cancelled"


# === The fence ===


@pytest.mark.parametrize("how", ["expired", "claimed by another", "released", "cancelled"])
def test_a_lost_job_claim_writes_nothing(world: Any, services: Services, how: str) -> None:
    claim = world.claim()
    _lose(world, claim, how)
    before = world.get(claim)
    writes = {
        "renew": lambda: claims.renew(services, claim),
        "release": lambda: claims.release(services, claim, charge_attempt=True),
        "progress": lambda: reports.progress(services, claim, [world.epoch(1)], checkpoints={}),
        "succeed": lambda: world.succeed(claim),
        "fail": lambda: reports.fail_job(services, claim, BROKEN),
        "cancel": lambda: reports.cancel_job(services, claim),
    }
    for write in writes.values():
        with pytest.raises(LeaseLostError, match="must stop"):
            write()
    assert world.get(claim) == before
    assert models.list_page(services, "default", _all()).items[0].job_id is None


def _lose(world: Any, claim: claims.JobClaim, how: str) -> None:
    if how == "expired":
        world.expire(JobRow, claim.identifier)
    elif how == "claimed by another":
        claims.release(world.services, claim, charge_attempt=False)
        world.claim(claim.job, worker="w2")
    elif how == "released":
        claims.release(world.services, claim, charge_attempt=False)
    else:
        reports.cancel_job(world.services, claim)


@pytest.mark.parametrize("how", ["expired", "claimed by another", "deleted"])
def test_a_lost_check_of_a_model_writes_nothing(world: Any, services: Services, how: str) -> None:
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    claim = claims.claim_model(services, model.id, worker="w")
    assert claim is not None
    if how == "expired":
        world.expire(ModelRow, model.id)
    elif how == "claimed by another":
        claims.release(services, claim, charge_attempt=False)
        assert claims.claim_model(services, model.id, worker="w2")
    else:
        models.delete(services, "default", model.id)
    for write in (
        lambda: claims.renew(services, claim),
        lambda: claims.release(services, claim, charge_attempt=False),
        lambda: reports.finish_model(services, claim, info=world.info(), canonical=[]),
        lambda: reports.fail_model(services, claim, BROKEN),
    ):
        with pytest.raises(LeaseLostError):
            write()


def test_a_lost_check_of_a_dataset_writes_nothing(world: Any, services: Services) -> None:
    job = world.job(training_file=world.file("a.zip").id)
    claim = claims.claim_dataset(services, job.dataset_id, worker="w")
    assert claim is not None
    assert claims.claim_dataset(services, job.dataset_id, worker="w2") is None
    world.expire(DatasetRow, job.dataset_id)
    with pytest.raises(LeaseLostError):
        reports.finish_dataset(services, claim, info=world.data_info(), preview=[], canonical=[])
    with pytest.raises(LeaseLostError):
        reports.fail_dataset(services, claim, BROKEN)
    assert datasets.get(services, "default", job.dataset_id).status == "validating"
    assert world.get(job).status == "validating_files"


def test_a_model_that_is_ready_cannot_be_claimed(world: Any, services: Services) -> None:
    assert claims.claim_model(services, world.model().id, worker="w") is None


# === Giving back ===


def test_a_released_job_waits_again_at_no_cost_and_is_rung(world: Any, services: Services, bell: Any) -> None:
    job = world.job()
    for attempt in range(1, 6):
        claim = world.claim(job)
        assert claim.attempt == attempt
        claims.release(services, claim, charge_attempt=False)
        assert bell.rings[-1] == ("train", job.id, "cpu")
    assert world.get(job).status == "queued"
    assert world.get(job).attempt.lease_expires_at is None


def test_three_charged_attempts_fail_the_job(world: Any, services: Services) -> None:
    job = world.job()
    for _ in range(3):
        assert world.get(job).status == "queued"
        claims.release(services, world.claim(job), charge_attempt=True)
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.error_class, failed.error.code) == ("failed", "platform", "worker_lost")
    assert failed.error.retryable


def test_a_released_job_that_was_to_be_cancelled_is_cancelled(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_cancel(services, "default", claim.identifier)
    claims.release(services, claim, charge_attempt=False)
    assert world.get(claim).status == "cancelled"


def test_a_released_check_waits_again_and_is_rung(world: Any, services: Services, bell: Any) -> None:
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    claim = claims.claim_model(services, model.id, worker="w")
    assert claim is not None
    assert claims.wishes(services, claim) == claims.Wishes()
    claims.release(services, claim, charge_attempt=False)
    assert bell.rings[-1] == ("register", model.id, "prepare")
    again = claims.claim_model(services, model.id, worker="w")
    assert again is not None
    assert again.attempt == 2


def _all() -> Any:
    from app.storage.paging import PageQuery

    return PageQuery()


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_what_a_claim_waits_for_is_not_taken_from_its_lease(world: Any, services: Services) -> None:
    job = world.job()
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    for claim, identifier in ((claims.claim_job, job.id), (claims.claim_model, model.id)):
        with ThreadPoolExecutor(1) as threads:
            with services.db.begin() as session:
                session.execute(select(JobRow.id))  # holds SQLite
                waiting = threads.submit(claim, services, identifier, worker="w1")
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.3)
                let_go = time.monotonic()
            claimed = waiting.result()
        assert claimed is not None
        assert claimed.claimed_at >= let_go
