"""Asking for what already holds, and who wins where two things happen to a job at once: the table of `docs/jobs.md`."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app.domain.errors import InUseError, InvalidStateTransitionError, LeaseLostError
from app.domain.job import JobRequest
from app.services import claims, datasets, drafts, history, jobs, models, references
from app.services.context import Services
from app.services.sweep import sweep
from app.storage import assets
from app.storage.tables import Asset, DatasetRow, JobRow, ModelRow

ROUNDS = 2


def _at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returned or raised."""
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def _types(services: Services, identifier: str) -> list[str]:
    return [event.type for event in history.events_since(services, "default", identifier, after_number=0)]


# === Asking twice ===


@pytest.mark.parametrize("ask", [jobs.request_cancel, jobs.request_pause, jobs.resume])
@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_asking_twice_is_asking_once(world: Any, services: Services, ask: Callable[..., Any], status: str) -> None:
    job = world.job()
    if status == "running":
        world.claim(job)
    elif status == "paused":
        jobs.request_pause(services, "default", job.id)
    first = ask(services, "default", job.id)
    told = _types(services, job.id)
    assert ask(services, "default", job.id) == first
    assert _types(services, job.id) == told


# === Finishing ===


@pytest.mark.parametrize(("ask", "wish"), [(jobs.request_cancel, "cancel"), (jobs.request_pause, "pause")])
def test_finishing_wins_against_a_wish_that_the_worker_did_not_see(
    world: Any, services: Services, ask: Callable[..., Any], wish: str
) -> None:
    claim = world.claim()
    assert ask(services, "default", claim.identifier).status == "running"
    assert getattr(claims.wishes(services, claim), wish)
    assert world.succeed(claim).status == "succeeded"
    with pytest.raises(InvalidStateTransitionError):
        ask(services, "default", claim.identifier)


@pytest.mark.parametrize("ask", [jobs.request_cancel, jobs.request_pause])
def test_finishing_and_a_wish_at_once_end_in_success_whoever_is_first(
    world: Any, services: Services, ask: Callable[..., Any]
) -> None:
    for _ in range(ROUNDS):
        claim = world.claim()
        asked, done = _at_once(
            lambda: ask(services, "default", claim.identifier),  # noqa: B023 (both are done before the next round)
            lambda: world.succeed(claim),  # noqa: B023
        )
        assert done.status == world.get(claim).status == "succeeded"
        assert isinstance(asked, InvalidStateTransitionError) or asked.status == "running"
        assert _types(services, claim.identifier)[-1] == "completed"


def test_a_worker_that_saw_the_wish_wins_against_finishing(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_cancel(services, "default", claim.identifier)
    claims.release(services, claim, charge_attempt=False)
    with pytest.raises(LeaseLostError):
        world.succeed(claim)
    assert world.get(claim).status == "cancelled"


# === Submitting ===


def _named_by_its_file(world: Any, services: Services, what: str) -> tuple[JobRequest, Callable[[], None]]:
    """A request that names the file of a model or dataset, and how that is deleted."""
    made = world.model() if what == "model" else world.dataset()
    delete = models.delete if what == "model" else datasets.delete
    return world.request(**{what: made.file_id}), lambda: delete(services, "default", made.id)


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
@pytest.mark.parametrize("what", ["model", "training_file"])
def test_what_a_job_shares_by_its_file_stays_until_the_job_is_there(world: Any, services: Services, what: str) -> None:
    """PostgreSQL alone, as below."""
    request, delete = _named_by_its_file(world, services, what)
    with ThreadPoolExecutor(1) as thread:
        with services.db.begin() as session:
            found = references.find(session, "default", request)
            deleted = thread.submit(delete)
            _until_somebody_waits(services)
            drafts.enter(session, "default", drafts.of(request), found, api_key_id="")
        with pytest.raises(InUseError):
            deleted.result(timeout=60)


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
@pytest.mark.parametrize("what", ["model", "training_file"])
def test_a_file_is_checked_anew_if_what_was_made_of_it_is_deleted_while_a_job_asks_for_it(
    world: Any, services: Services, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, delete = _named_by_its_file(world, services, what)
    from_file, row = assets.from_file, ModelRow if what == "model" else DatasetRow

    def then_deleted(session: Session, wanted: type[Asset], *named: str) -> Sequence[Asset]:
        found = from_file(session, wanted, *named)
        if wanted is row:
            delete()
        return found

    monkeypatch.setattr(assets, "from_file", then_deleted)
    job = jobs.submit(services, "default", request)
    assert job.status == "validating_files"
    world.finish_model(job.model_id) if what == "model" else world.finish_dataset(job.dataset_id)
    assert world.get(job).status == "queued"


# === Giving back ===


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("wish", "ends"), [({"pause_requested_at": 1.0}, "paused"), ({"cancel_requested_at": 1.0}, "cancelled")]
)
def test_a_wish_that_comes_while_a_job_is_given_back_is_granted(
    world: Any, services: Services, wish: dict[str, float], ends: str
) -> None:
    """PostgreSQL alone: on SQLite the one waits for the other from its beginning."""
    claim = world.claim()
    with ThreadPoolExecutor(1) as thread:
        with services.db.begin() as session:
            session.execute(update(JobRow).where(JobRow.id == claim.identifier).values(**wish))
            release = thread.submit(claims.release, services, claim, charge_attempt=False)
            _until_somebody_waits(services)
        assert release.result(timeout=60) == ends
    assert world.get(claim).status == ends


def _until_somebody_waits(services: Services) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    for _ in range(600):
        with services.db.read() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.05)
    pytest.fail("nobody waits")


# === Cancel and pause ===


@pytest.mark.parametrize("order", [("cancel", "pause"), ("pause", "cancel")])
def test_cancel_wins_against_pause_in_either_order(world: Any, services: Services, order: tuple[str, str]) -> None:
    asks = {"cancel": jobs.request_cancel, "pause": jobs.request_pause}
    claim = world.claim()
    for name in order:
        asks[name](services, "default", claim.identifier)
    assert claims.release(services, claim, charge_attempt=False) == "cancelled"


# === Claim ===


def test_pause_against_claim_ends_in_a_paused_job_or_in_one_that_knows(world: Any, services: Services) -> None:
    for _ in range(ROUNDS):
        job = world.job()
        claim, asked = _at_once(
            lambda: claims.claim_next(services, job.id, worker="w"),  # noqa: B023
            lambda: jobs.request_pause(services, "default", job.id),  # noqa: B023
        )
        if claim is None:
            assert asked.status == world.get(job).status == "paused"
        else:
            assert claims.wishes(services, claim).pause
            assert claims.release(services, claim, charge_attempt=False) == "paused"


# === The sweeper ===


def _with_a_dead_worker(world: Any, services: Services) -> str:
    """A job that is to pause, and whose worker is not heard of any more."""
    claim = world.claim()
    jobs.request_pause(services, "default", claim.identifier)
    world.expire(JobRow, claim.identifier)
    return str(claim.identifier)


@pytest.mark.parametrize("first", ["resume", "sweep"])
def test_resume_and_the_sweeper_end_in_the_queue_in_either_order(world: Any, services: Services, first: str) -> None:
    identifier = _with_a_dead_worker(world, services)
    if first == "sweep":
        sweep(services)
        assert jobs.get(services, "default", identifier).status == "paused"
    jobs.resume(services, "default", identifier)
    sweep(services)
    job = jobs.get(services, "default", identifier)
    assert (job.status, job.pause_requested_at) == ("queued", None)


def test_resume_and_the_sweeper_at_once_end_in_the_queue(world: Any, services: Services) -> None:
    for _ in range(ROUNDS):
        identifier = _with_a_dead_worker(world, services)
        _at_once(lambda: jobs.resume(services, "default", identifier), lambda: sweep(services))  # noqa: B023
        assert jobs.get(services, "default", identifier).status == "queued"


def test_cancel_and_the_sweeper_at_once_end_in_cancelled(world: Any, services: Services) -> None:
    for _ in range(ROUNDS):
        identifier = _with_a_dead_worker(world, services)
        _at_once(lambda: jobs.request_cancel(services, "default", identifier), lambda: sweep(services))  # noqa: B023
        sweep(services)
        assert jobs.get(services, "default", identifier).status == "cancelled"


def test_a_result_wins_against_the_deadline_if_it_is_written_first(world: Any, services: Services) -> None:
    claim = world.claim(world.job(deadline_at=9e9))
    world.set(JobRow, claim.identifier, deadline_at=1.0)
    done, _ = _at_once(lambda: world.succeed(claim), lambda: sweep(services))
    assert done.status == world.get(claim).status == "succeeded"
