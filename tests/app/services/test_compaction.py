"""Long after the end of a job its events of single epochs make room; nothing is lost, and no number changes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from app.domain.ids import event_id
from app.domain.job import Event, Job
from app.services import history, reports
from app.services import sweep as sweeping
from app.services.context import Services
from app.services.sweep import sweep
from app.storage import compaction
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import JobRow

DAY_SECONDS = 86_400.0


@pytest.fixture
def job(world: Any, services: Services) -> Job:
    """One that ran three epochs, ended a phase, ran two more, succeeded, and is 91 days old."""
    claim = world.claim()
    for told in (
        [world.epoch(1), world.epoch(2), world.epoch(3), world.phase_end()],
        [world.epoch(1, phase=2, name="all"), world.epoch(2, phase=2, name="all")],
    ):
        reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact()})
    done: Job = world.succeed(claim)
    _age(world, done)
    return done


def _age(world: Any, job: Job, days: float = 91.0) -> None:
    world.set(JobRow, job.id, finished_at=now() - days * DAY_SECONDS)


def _events(services: Services, job: Job, after_number: int = 0) -> list[Event]:
    return history.events_since(services, "default", job.id, after_number=after_number)


def _told(services: Services, job: Job) -> list[tuple[int, str]]:
    return [(event.number, event.type) for event in _events(services, job)]


def _numbers(events: list[Event]) -> list[int]:
    """As whoever checks that nothing is missing counts them."""
    found: list[int] = []
    for event in events:
        first = event.data["first"] if event.type == "compacted" else event.number
        assert isinstance(first, int)
        found += range(first, event.number + 1)
    return found


def test_events_of_epochs_make_room_for_one_that_says_for_which_it_stands(services: Services, job: Job) -> None:
    before = _events(services, job)
    kept = [event for event in before if event.type != "metrics"]
    assert sweep(services).compacted == 5
    assert _told(services, job) == [
        (1, "status"), (2, "status"), (5, "compacted"), (6, "phase"), (8, "compacted"), (9, "completed"),
    ]  # fmt: skip
    after = _events(services, job)
    assert [event for event in after if event.type != "compacted"] == kept
    standing = [event for event in after if event.type == "compacted"]
    assert [event.data for event in standing] == [{"first": 3, "last": 5}, {"first": 7, "last": 8}]
    assert _numbers(after) == [event.number for event in before]
    times = [event.created_at for event in after]
    assert times == sorted(times)
    assert sweep(services).compacted == 0
    assert _events(services, job) == after


def test_metrics_stay(services: Services, job: Job) -> None:
    before = history.metrics(services, "default", job.id, PageQuery(limit=100))
    assert len(before.items) == 5
    sweep(services)
    assert history.metrics(services, "default", job.id, PageQuery(limit=100)) == before


@pytest.mark.parametrize("number", range(1, 9))
def test_streams_and_lists_go_on_behind_any_number(services: Services, job: Job, number: int) -> None:
    sweep(services)
    behind = _events(services, job, after_number=number)
    assert [event.number for event in behind] == [each for each, _ in _told(services, job) if each > number]
    assert set(_numbers(behind)) >= set(range(number + 1, 10))
    after = event_id(job.id, number)
    listed = history.events(services, "default", job.id, PageQuery(limit=100, order="asc", after=after)).items
    assert listed == behind
    back = history.events(services, "default", job.id, PageQuery(limit=100, after=after)).items
    assert [event.number for event in back] == [each for each, _ in reversed(_told(services, job)) if each < number]


def test_an_epoch_alone_makes_room_too(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [world.epoch(1)], checkpoints={})
    done = world.succeed(claim)
    _age(world, done)
    sweep(services)
    assert _told(services, done) == [(1, "status"), (2, "status"), (3, "compacted"), (4, "completed")]
    assert _events(services, done)[2].data == {"first": 3, "last": 3}


def test_events_of_young_jobs_and_of_those_that_have_not_ended_stay(world: Any, services: Services, job: Job) -> None:
    running = world.claim()
    reports.progress(services, running, [world.epoch(1)], checkpoints={})
    world.set(JobRow, running.identifier, created_at=now() - 1000 * DAY_SECONDS)
    _age(world, job, days=89)
    before = [_told(services, each) for each in (job, running.job)]
    assert sweep(services).compacted == 0
    assert [_told(services, each) for each in (job, running.job)] == before
    with services.db.begin() as session:
        assert compaction.compact(session, "default", running.identifier, limit=100) == 0
        assert compaction.compact(session, "another", job.id, limit=100) == 0


@pytest.mark.parametrize(("days", "compacted"), [(0.0, 0), (1000.0, 0), (91.5, 0), (1.0, 5)])
@pytest.mark.usefixtures("job")
def test_how_long_they_are_kept_is_a_setting(services: Services, days: float, compacted: int) -> None:
    settings = services.settings.model_copy(update={"keep_events_days": days})
    assert sweep(replace(services, settings=settings)).compacted == compacted


def test_many_events_make_room_a_few_at_a_time(services: Services, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "COMPACTED_EVENTS", 2)
    assert [sweep(services).compacted for _ in range(4)] == [2, 2, 1, 0]
    assert "metrics" not in [kind for _, kind in _told(services, job)]
    assert _numbers(_events(services, job)) == list(range(1, 10))


def test_many_sweepers_at_once_do_each_other_no_harm(
    world: Any, services: Services, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "COMPACTED_EVENTS", 2)
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda _: sum(sweep(services).compacted for _ in range(3)), range(4))) == 5
    assert _numbers(_events(services, job)) == list(range(1, 10))
    assert world.get(job).updated_at == job.updated_at, "nothing that people see of the job has changed"
