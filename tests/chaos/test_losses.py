"""What is said of jobs that were given up, by histories that the services themselves have made."""

import random
from collections.abc import Callable
from typing import Literal

import pytest

from app.domain.errors import CapacityError, Failure, StorageFullError
from app.domain.job import Job
from app.domain.progress import CheckpointRefused, Progress, Resumed, StageStarted
from app.services import claims, failing, jobs, reports
from app.services.sweep import sweep
from app.storage import checkpoints
from app.storage.tables import JobRow
from tests.app.conftest import World
from tests.chaos import losses
from tests.chaos.evidence import Evidence, Folder

End = Literal["lost", "crashed", "given back", "paused", "full", "out of memory", "lost while pausing"]
FULL = Failure(error_class="capacity", code=StorageFullError.code, message="There is no room.")
CRASH = Failure(error_class="platform", code="training_process_killed", message="It was killed.")


class Story:
    """One job, whose attempts do what a worker's would do."""

    def __init__(self, world: World, job: Job) -> None:
        self.world, self.job = world, job

    @property
    def status(self) -> str:
        return self.world.get(self.job).status

    @property
    def attempts(self) -> int:
        return self.world.get(self.job).attempt.number

    def attempt(self, end: End, *keeps: int, tells: bool = True, refuses: bool = False) -> None:
        """It goes on from the newest checkpoint, or (`refuses`) the one before; keeps some, and ends.

        Without `tells` it ends before it has told anything.
        """
        claim = self.world.claim(self.job)
        usable = list(claim.checkpoints)
        if tells:
            if refuses and usable:
                damaged = CheckpointRefused(name=f"resume-{usable.pop(0).number:06d}", reason="it is damaged")
                reports.progress(self.world.services, claim, [damaged], checkpoints={})
            self._begin(claim, usable[0].step if usable else None)
            for number, step in enumerate(keeps, start=len(claim.checkpoints) + 1):
                self.world.keep(claim, number, step=step)
        self._end(claim, end)

    def _begin(self, claim: claims.JobClaim, step: int | None) -> None:
        went_on = [] if step is None else [_resumed(self.world, step)]
        begun: list[Progress] = [
            StageStarted(stage="loading_source"),
            *went_on,
            StageStarted(stage="training", number=2),
        ]
        reports.progress(self.world.services, claim, begun, checkpoints={})

    def _end(self, claim: claims.JobClaim, end: End) -> None:
        services = self.world.services
        match end:
            case "lost":
                self.world.expire(JobRow, claim.identifier)
                sweep(services)
            case "crashed":
                failing.attempt_failed(services, claim, CRASH)
            case "given back":
                claims.release(services, claim, charge_attempt=False)
            case "full":
                failing.attempt_failed(services, claim, FULL)
            case "out of memory":
                failing.attempt_failed(services, claim, CapacityError("There is no memory.").failure())
            case "paused" | "lost while pausing":
                jobs.request_pause(services, "default", claim.identifier)
                claims.release(services, claim, charge_attempt=end == "lost while pausing")
        if self.status == "paused":
            jobs.resume(services, "default", claim.identifier)

    def objections(self) -> list[str]:
        settings = self.world.services.settings
        evidence = Evidence(settings.data_dir / "thaw.db", Folder(settings.artifacts_dir()))
        events = evidence.rows("SELECT * FROM events WHERE job_id = ? ORDER BY number", self.job.id)
        return list(losses.objections(events))


def _resumed(world: World, step: int) -> Resumed:
    return Resumed(phase=world.place(1), step=step, fidelity="exact", differences=[])


@pytest.fixture(scope="module")
def begin(world: World) -> Callable[[], Story]:
    model, dataset = world.model().id, world.dataset().id
    return lambda: Story(world, world.job(model=model, training_file=dataset))


@pytest.fixture
def story(begin: Callable[[], Story]) -> Story:
    return begin()


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service no longer notices that something new was kept."""
    monkeypatch.setattr(checkpoints, "furthest_step", lambda *_, **__: 10**9)


# === Rightly given up ===


def test_three_losses_before_anything_was_kept(story: Story) -> None:
    story.attempt("lost")
    story.attempt("crashed")
    story.attempt("lost", tells=False)
    assert (story.status, story.objections()) == ("failed", [])


def test_what_the_first_of_the_three_kept_was_kept_before_it_was_lost(story: Story) -> None:
    story.attempt("lost", 10)
    story.attempt("lost", 20)
    story.attempt("lost", tells=False)
    story.attempt("crashed")
    assert (story.status, story.objections()) == ("failed", [])


def test_to_keep_the_very_step_from_which_an_attempt_went_on_is_nothing_new(story: Story) -> None:
    story.attempt("lost", 10)
    story.attempt("lost", 10)
    story.attempt("lost", 10)
    assert (story.status, story.objections()) == ("failed", [])


def test_attempts_that_cost_nothing_may_come_in_between(story: Story) -> None:
    story.attempt("lost", 10)
    for end in ("given back", "paused", "full", "out of memory"):
        story.attempt(end, 10)
    story.attempt("lost while pausing")
    story.attempt("given back")
    story.attempt("crashed")
    assert (story.status, story.objections()) == ("failed", [])


def test_what_is_kept_again_after_a_refusal_is_nothing_new(story: Story) -> None:
    story.attempt("lost", 20, 30)
    story.attempt("lost", 25, refuses=True)
    story.attempt("lost")
    assert (story.status, story.objections()) == ("failed", [])


# === Not rightly ===


@pytest.mark.usefixtures("forgetful")
def test_a_service_that_counts_all_losses_is_found_out(story: Story) -> None:
    story.attempt("lost", 10)
    story.attempt("lost", 20)
    story.attempt("crashed")
    assert story.status == "failed"
    assert any(
        "kept something new in between: they began at the steps {2: 10, 3: 20}" in each for each in story.objections()
    )


@pytest.mark.usefixtures("forgetful")
def test_so_is_one_that_does_so_from_the_beginning(story: Story) -> None:
    story.attempt("crashed", tells=False)
    story.attempt("lost", 10)
    story.attempt("lost", 20)
    assert story.status == "failed"
    assert any("they began at the steps {2: 0, 3: 10}" in each for each in story.objections())


@pytest.mark.usefixtures("forgetful")
def test_what_an_attempt_kept_that_cost_nothing_counts_as_well(story: Story) -> None:
    story.attempt("lost", 10)
    story.attempt("given back", 20)
    story.attempt("lost")
    story.attempt("lost", tells=False)
    assert story.status == "failed"
    assert any("they began at the steps {2: 10, 3: 20}" in each for each in story.objections())


def test_a_job_that_is_given_up_too_soon_is_seen(story: Story) -> None:
    story.attempt("lost")
    story.world.set(JobRow, story.job.id, lost_attempts=2)
    story.attempt("lost")
    assert story.status == "failed"
    assert story.objections() == ["it was given up after the loss of 2 attempts ([1, 2]) instead of 3"]


# === Any history ===


def test_nothing_is_said_against_what_the_services_do_by_chance(begin: Callable[[], Story]) -> None:
    chance = random.Random(11)  # noqa: S311 (repeatable is what it must be)
    stories = [_told_by_chance(begin(), chance) for _ in range(5)]
    given_up = [story for story in stories if story.status == "failed"]
    assert len(given_up) > 2
    assert [story.objections() for story in given_up] == [[]] * len(given_up)


def _told_by_chance(story: Story, chance: random.Random) -> Story:
    step = 0
    while story.status == "queued" and story.attempts < 12:
        keeps = [step := step + chance.choice([0, 0, 0, 5, 10]) for _ in range(chance.randrange(3))]
        end: End = chance.choice(["lost", "lost", "crashed", "lost while pausing", "given back", "paused", "full"])
        story.attempt(end, *keeps, tells=chance.random() < 0.8, refuses=chance.random() < 0.1)
    return story
