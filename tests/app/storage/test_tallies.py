"""What there is, counted over all projects."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, update

from app.domain.caching import CacheUse
from app.domain.errors import Failure
from app.domain.model import ModelOptions
from app.domain.progress import StageStarted
from app.services import claims, jobs, models, reports
from app.services.context import Services
from app.storage import tallies
from app.storage.database import now
from app.storage.tables import JobRow, ProjectRow
from app.storage.tallies import CachedPhases, Ending, Held, StageTime


def test_jobs_are_counted_by_status(world: Any, services: Services) -> None:
    job, done = world.job(), world.claim()
    world.succeed(done)
    world.job(model=job.model_id, training_file=job.dataset_id)
    with services.db.read() as session:
        assert tallies.jobs_by_status(session) == {"queued": 2, "succeeded": 1}


def test_what_could_be_claimed_is_counted_by_kind(world: Any, services: Services) -> None:
    job = world.job()
    world.claim(job)
    world.job(model=job.model_id, training_file=job.dataset_id)
    models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    with services.db.read() as session:
        assert tallies.waiting(session) == {"job": 1, "model": 1, "dataset": 0}


def test_leases_that_ran_out_are_told_apart(world: Any, services: Services) -> None:
    claim = world.claim()
    world.claim()
    world.expire(JobRow, claim.identifier)
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    assert claims.claim_model(services, model.id, worker="w")
    with services.db.read() as session:
        assert tallies.held(session) == {"job": Held(1, 1), "model": Held(1, 0), "dataset": Held(0, 0)}


def test_the_oldest_waiting_job_of_all_projects_is_found(world: Any, services: Services) -> None:
    with services.db.read() as session:
        assert tallies.oldest_waiting_seconds(session) is None
    young, old = world.job(), world.job()
    with services.db.begin() as session:
        session.add(ProjectRow(id="another", created_at=0))
        session.flush()
        aged = update(JobRow).where(JobRow.id == old.id)
        session.execute(aged.values(queued_at=now() - 500, project="another"))
        session.execute(update(JobRow).where(JobRow.id == young.id).values(queued_at=now() - 100))
    with services.db.read() as session:
        assert tallies.oldest_waiting_seconds(session) == pytest.approx(500, abs=60)
    world.set(JobRow, old.id, queued_at=now() - 50)
    with services.db.read() as session:
        assert tallies.oldest_waiting_seconds(session) == pytest.approx(100, abs=60)


def test_a_job_that_comes_back_into_the_queue_begins_to_wait_anew(world: Any, services: Services) -> None:
    def waits() -> float | None:
        with services.db.read() as session:
            return tallies.oldest_waiting_seconds(session)

    job = world.job()
    world.set(JobRow, job.id, created_at=now() - 9000, queued_at=now() - 9000)
    claim = world.claim(job)
    assert waits() is None
    claims.release(services, claim, charge_attempt=False)
    assert waits() == pytest.approx(0, abs=60)
    world.set(JobRow, job.id, queued_at=now() - 9000)
    jobs.request_pause(services, "default", job.id)
    assert waits() is None
    jobs.resume(services, "default", job.id)
    assert waits() == pytest.approx(0, abs=60)


def test_recent_jobs_are_counted_by_the_reason_of_their_failure(world: Any, services: Services) -> None:
    for _ in range(2):
        reports.fail_job(services, world.claim(), Failure(error_class="user", code="bad_data", message="It is bad."))
    lost = world.claim()
    claims.release(services, lost, charge_attempt=True)
    world.claim(lost.job)
    with services.db.read() as session:
        assert tallies.recent_endings(session) == [
            Ending("failed", "user", "bad_data", 2, 2, 0),
            Ending("running", None, None, 1, 2, 1),
        ]


def test_only_the_newest_jobs_are_looked_at(world: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "RECENT", 1)
    world.job()
    world.claim()
    with services.db.read() as session:
        assert [(each.status, each.jobs) for each in tallies.recent_endings(session)] == [("running", 1)]


def test_stages_are_added_up_where_they_ended(world: Any, services: Services) -> None:
    history = [("training", 10.0, 14.5), ("evaluating", 14.5, 15.0), ("training", 20.0, None)]
    records = [{"stage": s, "attempt": 1, "started_at": a, "finished_at": b} for s, a, b in history]
    for _ in range(2):
        world.set(JobRow, world.claim().identifier, stage_history=records)
    world.job()
    with services.db.read() as session:
        assert tallies.recent_stages(session) == [StageTime("evaluating", 2, 1.0), StageTime("training", 2, 9.0)]


def test_stages_of_a_real_life_are_found(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [StageStarted(stage="training")], checkpoints={})
    world.succeed(claim)
    with services.db.read() as session:
        (stage,) = tallies.recent_stages(session)
    assert (stage.stage, stage.count) == ("training", 1)
    assert 0 <= stage.seconds < 60


def test_phases_are_counted_by_what_the_cache_was_for_them(world: Any, services: Services) -> None:
    for cache in (CacheUse(used=True, found=True, saved_seconds=2.5), CacheUse(used=False, reason="off"), None):
        claim = world.claim()
        report = world.report(claim)
        phases = [report.phases[0].model_copy(update={"cache": cache})] * 2
        reports.succeed_job(
            services, claim, artifacts=[world.artifact()], canonical=[], info=world.info(labels=["a", "b"]),
            report=report.model_copy(update={"phases": phases}),
        )  # fmt: skip
    world.claim()
    with services.db.read() as session:
        found = tallies.recent_caching(session)
    assert found == [CachedPhases(False, False, 2, 0.0), CachedPhases(True, True, 2, 5.0)]


@pytest.fixture
def plans(services: Services) -> Iterator[list[str]]:
    """How SQLite carries out each statement."""
    found: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH")) and services.db.engine.dialect.name == "sqlite":
            rows = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[3] for row in rows)

    event.listen(services.db.engine, "before_cursor_execute", explain)
    yield found
    event.remove(services.db.engine, "before_cursor_execute", explain)


@pytest.mark.parametrize(
    "count",
    [tallies.jobs_by_status, tallies.queued_by_priority, tallies.waiting, tallies.held, tallies.oldest_waiting_seconds],
)
@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_counting_reads_indexes_and_no_rows(count: Any, services: Services, plans: list[str]) -> None:
    with services.db.read() as session:
        count(session)
    of_jobs = [plan for plan in plans if re.search(r"\b(jobs|models|datasets)\b", plan)]
    assert of_jobs
    assert all("COVERING INDEX" in plan for plan in of_jobs), of_jobs


@pytest.mark.parametrize("count", [tallies.recent_endings, tallies.recent_stages, tallies.recent_caching])
@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_the_newest_jobs_are_found_by_their_ids(count: Any, services: Services, plans: list[str]) -> None:
    with services.db.read() as session:
        count(session)
    assert [plan for plan in plans if "jobs" in plan] == ["SCAN jobs USING INDEX sqlite_autoindex_jobs_1"]
