"""Jobs that a full disk has set aside go on by themselves, after a wait, where a worker has room."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.errors import Failure
from app.domain.job import Job
from app.domain.worker import WorkerCapabilities
from app.services import aside, claims, history, jobs, workers
from app.services.context import Services
from app.services.failing import attempt_failed
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.tables import JobRow

FULL = Failure(error_class="platform", code="storage_full", message="There is no room.")
ROOMY = WorkerCapabilities(queues=["cpu"], devices=["cpu"])
GPU = WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"])


def _set_aside(world: Any, services: Services, job: Job | None = None) -> Job:
    claim = world.claim(job)
    assert attempt_failed(services, claim, FULL) == "paused"
    found: Job = world.get(claim)
    return found


def _wait_is_over(world: Any, job: Job) -> None:
    world.set(JobRow, job.id, resume_at=now() - 1)


def _statuses(services: Services, job: Job) -> list[object]:
    told = history.events_since(services, "default", job.id, after_number=0)
    return [event.data["status"] for event in told if event.type in {"status", "completed"}]


def _waits(job: Job) -> float:
    assert job.resume_at is not None
    return job.resume_at - job.updated_at


def test_a_job_goes_on_when_its_wait_is_over_and_is_rung_for(world: Any, services: Services, bell: Any) -> None:
    job = _set_aside(world, services)
    assert (job.set_aside, job.pause_requested_at) == (FULL, None)
    assert aside.resume(services, ROOMY) == 0
    _wait_is_over(world, job)
    bell.rings.clear()
    assert aside.resume(services, ROOMY) == 1
    assert (world.get(job).status, world.get(job).set_aside, world.get(job).resume_at) == ("queued", None, None)
    assert bell.rings == [("train", job.id, "cpu")]
    assert aside.resume(services, ROOMY) == 0
    assert world.succeed(world.claim(job)).status == "succeeded"


@pytest.mark.parametrize(
    ("worker", "there"),
    [
        (ROOMY.model_copy(update={"refuses_training": "its disk has 0 bytes free"}), None),
        (ROOMY.model_copy(update={"draining": True}), None),
        (ROOMY.model_copy(update={"queues": ["prepare"]}), None),
        (ROOMY, GPU),
    ],
    ids=["without room", "draining", "prepares", "others train"],
)
def test_who_would_not_train_it_does_not_resume_it(
    world: Any, services: Services, worker: WorkerCapabilities, there: WorkerCapabilities | None
) -> None:
    job = _set_aside(world, services)
    _wait_is_over(world, job)
    if there:
        workers.announce(services, worker="w2", capabilities=there)
    assert aside.resume(services, worker) == 0
    assert world.get(job).status == "paused"


def test_each_time_in_a_row_it_waits_twice_as_long_up_to_an_hour(world: Any, services: Services) -> None:
    job, waited = world.job(), []
    for _ in range(8):
        found = _set_aside(world, services, job)
        waited.append(_waits(found))
        _wait_is_over(world, job)
        assert aside.resume(services, ROOMY) == 1
    assert waited == pytest.approx([60, 120, 240, 480, 960, 1920, 3600, 3600], abs=5)
    told = history.events_since(services, "default", job.id, after_number=0)
    waits = [event.data["wait_seconds"] for event in told if event.type == "storage_full"]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_new_checkpoint_and_a_person_who_resumes_it_make_it_the_first_time_again(
    world: Any, services: Services
) -> None:
    job = world.job()
    for again in range(2):
        assert _waits(_set_aside(world, services, job)) == pytest.approx(60, abs=5)
        _wait_is_over(world, job)
        aside.resume(services, ROOMY)
        claim = world.claim(job)
        world.keep(claim, 1, step=again + 1)
        claims.release(services, claim, charge_attempt=False)
    assert _waits(_set_aside(world, services, job)) == pytest.approx(60, abs=5)
    jobs.resume(services, "default", job.id)
    assert _waits(_set_aside(world, services, job)) == pytest.approx(60, abs=5)


def test_a_person_resumes_it_at_once(world: Any, services: Services) -> None:
    job = _set_aside(world, services)
    assert jobs.resume(services, "default", job.id).status == "queued"
    assert world.get(job).resume_at is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_pauses_it_keeps_it_until_a_person_resumes_it(world: Any, services: Services, when: str) -> None:
    claim = world.claim()
    if when == "before":
        jobs.request_pause(services, "default", claim.identifier)
    assert attempt_failed(services, claim, FULL) == "paused"
    job = jobs.request_pause(services, "default", claim.identifier)
    assert (job.status, job.set_aside, job.resume_at) == ("paused", None, None)
    assert job.pause_requested_at is not None
    _wait_is_over(world, job)  # whatever the row says besides
    assert aside.resume(services, ROOMY) == 0
    assert jobs.request_pause(services, "default", job.id) == world.get(job)
    assert jobs.resume(services, "default", job.id).status == "queued"


def test_cancelling_it_ends_it(world: Any, services: Services) -> None:
    job = _set_aside(world, services)
    _wait_is_over(world, job)
    assert jobs.request_cancel(services, "default", job.id).status == "cancelled"
    assert aside.resume(services, ROOMY) == 0
    assert _statuses(services, job)[-1] == "cancelled"


def test_of_many_sweepers_one_resumes_it(world: Any, services: Services, bell: Any) -> None:
    waiting = [_set_aside(world, services) for _ in range(3)]
    for job in waiting:
        _wait_is_over(world, job)
    bell.rings.clear()
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda _: aside.resume(services, ROOMY), range(4))) == 3
    for job in waiting:
        assert _statuses(services, job) == ["queued", "running", "paused", "queued"]
    assert sorted(ring[1] for ring in bell.rings) == sorted(job.id for job in waiting)


def test_a_person_and_a_sweeper_at_once_leave_it_as_the_person_wants_it(world: Any, services: Services) -> None:
    for ask, status in ((jobs.request_pause, "paused"), (jobs.request_cancel, "cancelled"), (jobs.resume, "queued")):
        job = _set_aside(world, services)
        _wait_is_over(world, job)
        with ThreadPoolExecutor(2) as threads:
            calls = [lambda: ask(services, "default", job.id), lambda: aside.resume(services, ROOMY)]  # noqa: B023
            for done in [threads.submit(call) for call in calls]:
                done.result()
        assert world.get(job).status == status


def test_its_deadline_goes_on(world: Any, services: Services) -> None:
    job = _set_aside(world, services, world.job(deadline_at=9e9))
    world.set(JobRow, job.id, deadline_at=now() - 1)
    sweep(services)
    assert (world.get(job).status, world.get(job).resume_at) == ("failed", None)
