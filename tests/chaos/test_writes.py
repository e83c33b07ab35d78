"""What is said of an attempt that writes when it is not the holder, by histories that the services have made."""

from typing import Any

import pytest

from app.domain.errors import LeaseLostError
from app.domain.job import Job
from app.domain.progress import StageStarted
from app.services import claims, reports
from app.services.sweep import sweep
from app.storage import leases
from app.storage.tables import JobRow
from tests.app.conftest import World
from tests.chaos import writes
from tests.chaos.evidence import Evidence, Folder

STAGES = ("training", "evaluating", "exporting")


@pytest.fixture
def unfenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service no longer asks which attempt writes."""
    monkeypatch.setattr(leases, "fenced", lambda row, _: [row.status == row.held])


@pytest.fixture
def job(world: World) -> Job:
    return world.job(model=world.model().id, training_file=world.dataset().id)


def _tell(world: World, claim: claims.JobClaim, stage: str) -> None:
    begun = StageStarted(stage=stage, number=STAGES.index(stage) + 1)
    reports.progress(world.services, claim, [begun], checkpoints={})


def _two_attempts(world: World, job: Job) -> tuple[claims.JobClaim, claims.JobClaim]:
    """The first one evaluates and is thought to be dead; the second one trains."""
    first = world.claim(job)
    _tell(world, first, "evaluating")
    world.expire(JobRow, job.id)
    sweep(world.services)
    second = world.claim(job)
    _tell(world, second, "training")
    return first, second


def _objections(world: World, job: Job) -> list[str]:
    settings = world.services.settings
    evidence = Evidence(settings.data_dir / "thaw.db", Folder(settings.artifacts_dir()))

    def rows(table: str) -> list[dict[str, Any]]:
        query = f"SELECT * FROM {table} WHERE job_id = ? ORDER BY number"  # noqa: S608 (ours)
        return evidence.rows(query, job.id)

    return list(writes.objections(rows("events"), rows("metrics"), rows("checkpoints")))


def test_nothing_is_said_of_a_result_that_the_last_attempt_published(world: World, job: Job) -> None:
    first, second = _two_attempts(world, job)
    with pytest.raises(LeaseLostError):
        world.succeed(first)
    _tell(world, second, "exporting")
    world.succeed(second)
    assert (world.get(job).status, _objections(world, job)) == ("succeeded", [])


@pytest.mark.usefixtures("unfenced")
def test_a_result_that_a_stale_attempt_published_is_seen(world: World, job: Job) -> None:
    first, _ = _two_attempts(world, job)
    world.succeed(first)
    assert (world.get(job).status, world.get(job).attempt.number) == ("succeeded", 2)
    assert _objections(world, job) == [
        "a result was published in attempt 2, which had not told that it exports one",
    ]
