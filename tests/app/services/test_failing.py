"""What follows from an attempt that failed, on both databases."""

from typing import Any

import pytest

from app.domain.errors import Failure, LeaseLostError
from app.domain.states import MAX_ATTEMPTS
from app.services import failing, history, jobs
from app.services.context import Services
from app.services.failing import LOST, attempt_failed
from app.storage.tables import JobRow


def _failure(code: str, error_class: str = "platform") -> Failure:
    return Failure(error_class=error_class, code=code, message="It broke.", phase="head")


CRASH = _failure("training_process_crashed")
FULL = _failure("storage_full")
MEMORY = _failure("out_of_memory", "capacity")


def _types(services: Services, job: Any) -> list[str]:
    return [event.type for event in history.events_since(services, "default", job.id, after_number=0)]


@pytest.mark.parametrize("code", sorted(LOST))
def test_an_attempt_that_was_lost_waits_again_and_is_rung_at_once(
    world: Any, services: Services, bell: Any, code: str
) -> None:
    claim = world.claim()
    bell.rings.clear()
    assert attempt_failed(services, claim, _failure(code)) == "waits"
    assert world.get(claim).status == "queued"
    assert bell.rings == [("train", claim.identifier, "cpu")]
    assert _types(services, claim.job)[-2:] == ["attempt_lost", "status"]


def test_attempts_that_were_lost_in_a_row_fail_the_job_with_the_last_reason(world: Any, services: Services) -> None:
    job = world.job()
    outcomes = [attempt_failed(services, world.claim(job), CRASH) for _ in range(MAX_ATTEMPTS)]
    assert outcomes == ["waits"] * (MAX_ATTEMPTS - 1) + ["failed"]
    error = world.get(job).error
    assert (error.code, error.phase, error.message.startswith("It broke.")) == (CRASH.code, "head", True)
    assert _types(services, job)[-1] == "completed"


def test_a_new_checkpoint_gives_all_attempts_back(world: Any, services: Services) -> None:
    job = world.job()
    for attempt in range(2 * MAX_ATTEMPTS):
        claim = world.claim(job)
        world.keep(claim, 1, step=attempt + 1)
        assert attempt_failed(services, claim, CRASH) == "waits"


def test_crashes_and_lost_workers_count_together(world: Any, services: Services) -> None:
    from app.services.sweep import sweep

    job = world.job()
    for _ in range(MAX_ATTEMPTS - 1):
        attempt_failed(services, world.claim(job), CRASH)
    world.expire(JobRow, world.claim(job).identifier)
    sweep(services)
    assert world.get(job).error.code == "worker_lost"


def test_no_room_sets_a_job_aside_and_costs_no_attempt(world: Any, services: Services) -> None:
    job = world.job()
    for _ in range(MAX_ATTEMPTS + 1):
        assert attempt_failed(services, world.claim(job), FULL) == "paused"
        assert _types(services, job)[-2:] == ["storage_full", "status"]
        assert world.get(job).set_aside == FULL
        jobs.resume(services, "default", job.id)
    assert (world.get(job).status, world.get(job).set_aside) == ("queued", None)
    jobs.request_pause(services, "default", job.id)
    assert world.get(job).set_aside is None, "somebody asked for it this time"


@pytest.mark.parametrize("failure", [CRASH, FULL, MEMORY], ids=lambda failure: failure.code)
def test_a_wish_to_cancel_outweighs_another_try(world: Any, services: Services, failure: Failure) -> None:
    claim = world.claim()
    jobs.request_cancel(services, "default", claim.identifier)
    assert attempt_failed(services, claim, failure) == "cancelled"
    assert world.get(claim).status == "cancelled"


def test_a_wish_to_pause_is_granted_when_the_attempt_was_lost(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_pause(services, "default", claim.identifier)
    assert attempt_failed(services, claim, CRASH) == "paused"


def test_out_of_memory_is_tried_once_with_smaller_batches(world: Any, services: Services) -> None:
    job = world.job(batch_size=24, schedule=[{"epochs": 1, "gradient_accumulation": 3}])
    assert attempt_failed(services, world.claim(job), MEMORY) == "waits"
    again = world.claim(job)
    spec = again.job.spec
    assert (spec.batch_size, spec.schedule[0].gradient_accumulation) == (12, 6)
    assert world.get(job).resume_fidelity == "tolerance"
    assert attempt_failed(services, again, MEMORY) == "failed"
    error = world.get(job).error
    assert (error.error_class, error.code) == ("capacity", "out_of_memory")
    assert "batches of 24 examples, and then of 12" in error.message


def test_batches_of_one_cannot_be_made_smaller(world: Any, services: Services) -> None:
    claim = world.claim(world.job(batch_size=1))
    assert attempt_failed(services, claim, MEMORY) == "failed"
    assert failing.ADJUSTED not in _types(services, claim.job)


def test_where_batch_normalization_trains_the_event_says_that_results_differ(world: Any, services: Services) -> None:
    job = world.job(head={"layers": [{"type": "batch_normalization"}]})
    attempt_failed(services, world.claim(job), MEMORY)
    (event,) = [
        each
        for each in history.events_since(services, "default", job.id, after_number=0)
        if each.type == failing.ADJUSTED
    ]
    assert "not comparable" in event.message
    assert event.data["adjustment"]["comparable"] is False  # type: ignore[index, call-overload]


@pytest.mark.parametrize("failure", [CRASH, FULL, MEMORY, _failure("diverged", "user")], ids=lambda each: each.code)
def test_who_lost_the_lease_changes_nothing(world: Any, services: Services, failure: Failure) -> None:
    claim = world.claim()
    world.expire(JobRow, claim.identifier)
    before = _types(services, claim.job)
    with pytest.raises(LeaseLostError):
        attempt_failed(services, claim, failure)
    assert (_types(services, claim.job), world.get(claim).spec) == (before, claim.job.spec)


def test_a_mistake_of_the_user_fails_the_job_at_once(world: Any, services: Services) -> None:
    claim = world.claim()
    assert attempt_failed(services, claim, _failure("diverged", "user")) == "failed"
    assert world.get(claim).error == _failure("diverged", "user")
