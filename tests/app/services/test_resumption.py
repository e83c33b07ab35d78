"""What a job keeps to go on from, and how it goes on: at no cost, gapless, and not for ever."""

from typing import Any

import pytest

from app.domain.job import Checkpoint, Event
from app.domain.progress import CheckpointRefused, Resumed
from app.services import claims, history, jobs, reports
from app.services.context import Services
from app.services.sweep import sweep
from app.storage.paging import PageQuery
from app.storage.tables import JobRow

EVERYTHING = PageQuery(limit=100, order="asc")


def _kept(services: Services, claim: claims.JobClaim) -> list[Checkpoint]:
    found = history.checkpoints(services, "default", claim.identifier, EVERYTHING).items
    return [each for each in found if each.kind == "resume"]


def _events(services: Services, claim: claims.JobClaim, kind: str) -> list[Event]:
    found = history.events_since(services, "default", claim.identifier, after_number=0)
    return [event for event in found if event.type == kind]


def _tell(services: Services, claim: claims.JobClaim, *told: Any) -> None:
    reports.progress(services, claim, told, checkpoints={})


# === Kept ===


def test_the_next_claim_brings_the_newest_checkpoint_first(world: Any, services: Services) -> None:
    first = world.claim()
    assert first.checkpoints == []
    for number in (1, 2):
        world.keep(first, number, step=10 * number, epoch=number)
    claims.release(services, first, charge_attempt=False)
    second = world.claim(first.job)
    assert [(each.attempt, each.number) for each in second.checkpoints] == [(1, 2), (1, 1)]
    world.keep(second, 1, step=25)
    claims.release(services, second, charge_attempt=False)
    third = world.claim(first.job)
    assert [(each.attempt, each.number) for each in third.checkpoints] == [(2, 1), (1, 2)]
    assert [file.name for file in third.checkpoints[0].files] == ["meta.json", "weights.safetensors"]


def test_the_job_is_as_far_as_its_checkpoint_when_an_attempt_begins(world: Any, services: Services) -> None:
    first = world.claim()
    _tell(services, first, world.epoch(1), world.epoch(2), world.epoch(3))
    world.keep(first, 1, step=20, epoch=2)
    claims.release(services, first, charge_attempt=False)
    second = world.claim(first.job)
    assert second.job.phase == world.place(2)
    assert second.job.progress == pytest.approx(2 / 20)
    claims.release(services, second, charge_attempt=False)
    third = world.claim(first.job)
    world.keep(third, 1, step=25, epoch=3, val_loss=None)
    claims.release(services, third, charge_attempt=False)
    assert world.claim(first.job).job.progress == pytest.approx(2 / 20), "the third epoch has not ended"


def test_the_last_two_stay_and_the_best_and_the_files_of_others_are_deleted(world: Any, services: Services) -> None:
    claim = world.claim()
    files = {}
    for number, loss in enumerate([0.5, 0.2, 0.4, 0.3, None], start=1):
        files[number] = world.keep(claim, number, step=number, val_loss=loss)
    assert [each.number for each in _kept(services, claim)] == [2, 4, 5]
    there = {number for number, blobs in files.items() if all(map(services.store.exists, blobs))}
    gone = {number for number, blobs in files.items() if not any(map(services.store.exists, blobs))}
    assert (there, gone) == ({2, 4, 5}, {1, 3})


def test_the_best_of_a_phase_that_is_over_makes_room_for_the_best_of_the_next(world: Any, services: Services) -> None:
    claim = world.claim()
    for number, (phase, loss) in enumerate([(1, 0.1), (1, 0.2), (2, 0.3), (2, 0.4), (2, 0.5), (2, None)], start=1):
        world.keep(claim, number, step=number, val_loss=loss, phase=phase)
    assert [each.number for each in _kept(services, claim)] == [3, 5, 6]


def test_those_from_the_ends_of_phases_stay(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [world.phase_end()], checkpoints={"c/1.weights": world.artifact()})
    for number in range(1, 6):
        world.keep(claim, number, step=number)
    world.succeed(claim)
    sweep(services)
    (left,) = history.checkpoints(services, "default", claim.identifier, EVERYTHING).items
    assert (left.kind, left.artifact) == ("phase", world.artifact())


@pytest.mark.parametrize("how", ["succeeded", "cancelled"])
def test_once_a_job_has_ended_nothing_is_left_to_go_on_from(how: str, world: Any, services: Services) -> None:
    claim, other = world.claim(), world.claim()
    mine, theirs = world.keep(claim, 1, step=1), world.keep(other, 1, step=1)
    (world.succeed if how == "succeeded" else lambda claim: reports.cancel_job(services, claim))(claim)
    sweep(services)
    assert _kept(services, claim) == []
    assert not any(map(services.store.exists, mine))
    assert len(_kept(services, other)) == 1
    assert all(map(services.store.exists, theirs))


def test_one_that_was_not_uploaded_counts_for_nothing(world: Any, services: Services) -> None:
    claim = world.claim()
    _tell(services, claim, world.checkpoint(1, step=1))
    assert _kept(services, claim) == []


def test_told_twice_is_kept_once(world: Any, services: Services) -> None:
    claim = world.claim()
    for _ in range(2):
        world.keep(claim, 1, step=1)
    assert len(_kept(services, claim)) == 1


# === Going on ===


def _resumed(world: Any, fidelity: str = "exact", *differences: str) -> Resumed:
    return Resumed(phase=world.place(3), step=20, fidelity=fidelity, differences=list(differences))


def test_an_event_tells_once_from_where_an_attempt_went_on(world: Any, services: Services) -> None:
    claim = world.claim()
    for _ in range(2):
        _tell(services, claim, _resumed(world))
    (event,) = _events(services, claim, "resumed")
    assert event.message == (
        "Attempt 1 goes on after step 20, in phase 'head', epoch 3 of 4: exactly as if it had not been interrupted."
    )
    assert (event.data["attempt"], event.data["step"], event.data["fidelity"]) == (1, 20, "exact")


def test_what_turns_out_to_be_different_later_is_told_once_more(world: Any, services: Services) -> None:
    claim = world.claim()
    news = [_resumed(world), _resumed(world, "tolerance", "features cached, now not cached")]
    for each in (*news, *news):  # the second time it is the same batch, sent again
        _tell(services, claim, each)
    told = sorted(_events(services, claim, "resumed"), key=lambda event: event.number)
    assert [event.data["fidelity"] for event in told] == ["exact", "tolerance"]
    assert told[-1].message.endswith("nearly as if it had not been interrupted (features cached, now not cached).")
    assert world.get(claim).resume_fidelity == "tolerance"


def test_a_checkpoint_that_was_refused_is_told_of_once(world: Any, services: Services) -> None:
    claim = world.claim()
    for _ in range(2):
        _tell(services, claim, CheckpointRefused(name="resume-000002", reason="meta.json is damaged or missing"))
    (event,) = _events(services, claim, "checkpoint_refused")
    assert event.level == "warn"
    assert "meta.json is damaged or missing" in event.message


def test_the_fidelity_of_a_job_is_that_of_its_weakest_part(world: Any, services: Services) -> None:
    claim = world.claim()
    assert world.get(claim).resume_fidelity is None
    world.keep(claim, 1, step=1)
    assert world.get(claim).resume_fidelity == "exact"
    _tell(services, claim, _resumed(world, "tolerance", "tensorflow 2.21.0, now 2.22.0"))
    world.keep(claim, 2, step=2)
    assert world.get(claim).resume_fidelity == "tolerance"
    assert "tensorflow 2.21.0, now 2.22.0" in _events(services, claim, "resumed")[0].message


# === How often an attempt may be lost ===


def test_attempts_that_keep_something_new_may_be_lost_for_ever(world: Any, services: Services) -> None:
    job = world.job()
    for step in range(1, 9):
        claim = world.claim(job)
        world.keep(claim, 1, step=step)
        claims.release(services, claim, charge_attempt=True)
    assert world.get(job).status == "queued"


def test_three_attempts_lost_where_nothing_new_was_kept_fail_the_job(world: Any, services: Services) -> None:
    job = world.job()
    claims.release(services, world.claim(job), charge_attempt=True)
    for lost in (1, 2, 3):
        assert world.get(job).status == "queued", lost
        claim = world.claim(job)
        world.keep(claim, 1, step=7)  # new for the first of them alone
        claims.release(services, claim, charge_attempt=True)
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "worker_lost")


# === Pause ===


def test_a_queued_job_pauses_at_once_and_nobody_claims_it(world: Any, services: Services, bell: Any) -> None:
    job = world.job()
    paused = jobs.request_pause(services, "default", job.id)
    assert paused.status == "paused"
    assert paused.pause_requested_at is not None
    assert claims.claim_job(services, job.id, worker="w") is None
    assert jobs.request_pause(services, "default", job.id) == paused
    rings = len(bell.rings)
    resumed = jobs.resume(services, "default", job.id)
    assert (resumed.status, resumed.pause_requested_at) == ("queued", None)
    assert bell.rings[rings:] == [("train", job.id, "cpu")]
    assert jobs.resume(services, "default", job.id).status == "queued"
    world.claim(job)


def test_a_running_job_pauses_when_its_worker_gives_it_back_at_no_cost(world: Any, services: Services) -> None:
    job = world.job()
    for _ in range(5):
        claim = world.claim(job)
        jobs.request_pause(services, "default", job.id)
        asked = jobs.request_pause(services, "default", job.id)
        assert (asked.status, claims.wishes(services, claim)) == ("running", claims.Wishes(pause=True))
        assert claims.release(services, claim, charge_attempt=False) == "paused"
        assert world.get(job).status == "paused"
        jobs.resume(services, "default", job.id)
    assert len([event for event in _events(services, claim, "message") if "Pausing" in event.message]) == 5


def test_a_wish_to_pause_can_be_withdrawn(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_pause(services, "default", claim.identifier)
    assert jobs.resume(services, "default", claim.identifier).status == "running"
    assert claims.wishes(services, claim) == claims.Wishes()
    assert claims.release(services, claim, charge_attempt=False) == "waits"


def test_a_job_that_was_to_pause_and_whose_worker_died_is_paused_by_the_sweeper(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_pause(services, "default", claim.identifier)
    world.expire(JobRow, claim.identifier)
    sweep(services)
    assert world.get(claim).status == "paused"


def test_a_paused_job_can_be_cancelled(world: Any, services: Services) -> None:
    claim = world.claim()
    files = world.keep(claim, 1, step=1)
    jobs.request_pause(services, "default", claim.identifier)
    claims.release(services, claim, charge_attempt=False)
    assert jobs.request_cancel(services, "default", claim.identifier).status == "cancelled"
    sweep(services)
    assert not any(map(services.store.exists, files))


def test_to_cancel_outweighs_to_pause(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_pause(services, "default", claim.identifier)
    jobs.request_cancel(services, "default", claim.identifier)
    assert claims.release(services, claim, charge_attempt=False) == "cancelled"
