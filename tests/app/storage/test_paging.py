"""A page costs the same however long the list is: each list is one range of an index, in its order."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event as events
from sqlalchemy import null, text

from app.domain.ids import event_id
from app.domain.job import Job
from app.domain.worker import WorkerCapabilities
from app.services import aside, datasets, files, history, jobs, models, uploads
from app.services.context import Services
from app.services.sweep import sweep
from app.storage import line
from app.storage.paging import Page, PageQuery
from app.storage.tables import METADATA, DatasetRow, ModelRow

MANY = 6_000
ROOMY = WorkerCapabilities(queues=["cpu"], devices=["cpu"])


@pytest.fixture
def many_jobs(world: Any, services: Services) -> Job:
    """A job, and very many like it that are made in the database itself; one in 300 is of a rare kind."""
    job: Job = world.job(metadata={"team": "common"})
    for row, name, made_of in ((ModelRow, "model-rare", world.model()), (DatasetRow, "ds-rare", world.dataset())):
        world.set(row, made_of.id, id=name, status="validating", info=null())
    names = [column.name for column in METADATA.tables["jobs"].columns]
    rare = {"model_id": "model-rare", "dataset_id": "ds-rare", "status": "validating_files"}
    made = {name: f"CASE WHEN n % 300 = 0 THEN '{value}' ELSE jobs.{name} END" for name, value in rare.items()}
    made |= {"id": "ID", "created_at": "1000.0 + n / 10.0"}
    words = {
        "COLUMNS": ", ".join(names),
        "VALUES": ", ".join(made.get(name, f"jobs.{name}") for name in names),
        "NUMBERS": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < MANY)",
        "ID": "'ftjob-' || substr(CAST(100000000 + n AS text), 2)",
        "MANY": str(MANY),
    }
    with services.db.begin() as session:
        for statement in COPIES:
            for name, word in words.items():
                statement = statement.replace(name, word)  # noqa: PLW2901 (word by word)
            session.execute(text(statement), {"job_id": job.id})
    return job


COPIES = (
    "INSERT INTO jobs (COLUMNS) NUMBERS SELECT VALUES FROM jobs, numbers WHERE jobs.id = :job_id",
    (
        "INSERT INTO job_metadata (project, job_id, created_at, key, value) NUMBERS SELECT 'default', ID, "
        "1000.0 + n / 10.0, 'team', CASE WHEN n % 300 = 0 THEN 'rare' ELSE 'common' END FROM numbers"
    ),
    (
        "INSERT INTO events (project, job_id, created_at, number, level, type, message, data) NUMBERS "
        "SELECT project, id, 0, n + 10, 'info', 'message', '', '{}' FROM jobs, numbers WHERE id = :job_id"
    ),
    (
        "INSERT INTO idempotency (project, key, fingerprint, created_at) NUMBERS "
        "SELECT project, ID, '', created_at FROM jobs, numbers WHERE id = :job_id"
    ),
    "ANALYZE",
)


def test_a_page_in_the_middle_reads_only_itself(services: Services, many_jobs: Job) -> None:
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "status": {"status": "queued"},
        "model": {"model": many_jobs.model_id},
        "dataset": {"dataset": many_jobs.dataset_id},
        "rare status": {"status": "validating_files"},
        "rare model": {"model": "model-rare"},
        "rare dataset": {"dataset": "ds-rare"},
        "team": {"metadata": {"team": "common"}},
        "rare team": {"metadata": {"team": "rare"}},
        "created after": {"created_after": 1100.0},
        "model and status": {"status": "queued", "model": many_jobs.model_id},
    }
    middle, event = f"ftjob-{MANY // 2:08d}", event_id(many_jobs.id, MANY // 2)
    costs = {}
    for order in ("asc", "desc"):
        page = PageQuery(after=middle, limit=5, order=order)
        for name, chosen in filters.items():
            costs[name, order] = _rows_read(services, partial(jobs.list_page, services, "default", page, **chosen))
        page = PageQuery(after=event, limit=5, order=order)
        costs["events", order] = _rows_read(services, partial(history.events, services, "default", many_jobs.id, page))
    assert {name: cost for name, cost in costs.items() if cost > 50} == {}


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_the_other_lists_are_served_by_their_indexes_too(world: Any, services: Services) -> None:
    """On SQLite, as with three rows PostgreSQL rightly reads the table; the statements are the same."""
    world.job()
    lists: tuple[tuple[Any, dict[str, str]], ...] = (
        (files, {"purpose": "x"}),
        (models, {"status": "ready"}),
        (datasets, {"status": "ready"}),
        (uploads, {"status": "pending"}),
        (uploads, {"sha256": "0" * 64, "filename": "a"}),
    )
    for module, filters in lists:
        for chosen in ({}, filters):
            plan = _plans(services, partial(module.list_page, services, "default", PageQuery(), **chosen))[-1]
            assert "USING INDEX" in plan
            assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_what_may_be_large_is_read_only_where_it_is_shown(world: Any, services: Services) -> None:
    """Reports, and the pictures of datasets' previews."""
    job, page = world.succeed(world.claim()), PageQuery()
    asked = [
        statement
        for statement, _ in _asked(services, lambda: world.job(model=job.model_id, training_file=job.dataset_id))
    ]
    asked += [statement for statement, _ in _asked(services, partial(jobs.list_page, services, "default", page))]
    asked += [statement for statement, _ in _asked(services, partial(datasets.list_page, services, "default", page))]
    read = "\n".join(statement for statement in asked if statement.startswith("SELECT"))
    assert "FROM jobs" in read
    assert "FROM datasets" in read
    assert "report" not in read
    assert "preview" not in read
    assert jobs.get(services, "default", job.id).report is not None


def test_a_sweep_reads_only_what_is_overdue(services: Services, many_jobs: Job) -> None:
    assert many_jobs.status == "queued"
    plans = _plans(services, lambda: (sweep(services), aside.resume(services, ROOMY)), analyze=False)
    assert len([plan for plan in plans if "jobs" in plan]) >= 3
    assert [plan for plan in plans if re.search(r"SCAN jobs|Seq Scan on jobs", plan)] == [], plans


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
def test_a_sweep_in_which_nothing_is_due_reads_hardly_anything(services: Services, many_jobs: Job) -> None:
    """All jobs were rung, and all keys used, just now. SQLite's plans do not tell how much they read."""
    assert many_jobs.status == "queued"
    plans = _plans(services, partial(sweep, services))
    assert len([plan for plan in plans if "on jobs" in plan]) >= 3
    assert _read_by(plans) < MANY / 40, "some for each of the few jobs that wait for their files"


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_claiming_and_finding_a_place_seek_in_the_index_of_the_line(services: Services, many_jobs: Job) -> None:
    """Of as many queued jobs as there may be; what is counted is counted in the index alone."""
    assert many_jobs.status == "queued"
    last = f"ftjob-{MANY - 1:08d}"
    asks = {
        "claim": line.first,
        "place": partial(line.position, identifier=last),
        "pace": partial(line.pace, project="default"),
    }
    for name, ask in asks.items():
        plans = _plans(services, partial(_in_session, services, ask))
        assert [plan for plan in plans if re.search(r"SCAN jobs|TEMP B-TREE FOR ORDER", plan)] == []
        seeks = [plan for plan in plans if "ix_jobs_line" in plan]
        assert seeks
        assert name == "claim" or all("COVERING INDEX ix_jobs_line" in plan for plan in seeks)
    assert jobs.get(services, "default", last).queue_position == MANY - MANY // 300


def _in_session(services: Services, ask: Callable[..., Any]) -> None:
    with services.db.read() as session:
        ask(session)


def _rows_read(services: Services, call: Callable[[], Page[Any]]) -> float:
    """Of PostgreSQL: rows that all steps have read. SQLite counts none: all of them if it scans a table or sorts."""
    assert len(call().items) == 5
    plans = _plans(services, call)
    if services.db.engine.dialect.name == "sqlite":
        return MANY * len(re.findall(r"TEMP B-TREE|SCAN", "\n".join(plans)))
    return _read_by(plans)


def _read_by(analyzed: list[str]) -> float:
    """Rows that all steps of PostgreSQL's plans have read."""
    plans = "\n".join(analyzed)
    kept = re.findall(r"actual rows=([\d.]+) loops=(\d+)", plans)
    removed = re.findall(r"Rows Removed by [^:]*: (\d+)", plans)
    return sum(float(rows) * int(loops) for rows, loops in kept) + sum(map(int, removed))


def _plans(services: Services, call: Callable[[], Any], *, analyze: bool = True) -> list[str]:
    """How the database carries out what `call` asks; to analyze is to carry it out once more."""
    asked = _asked(services, call)
    known = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN (ANALYZE, TIMING OFF)" if analyze else "EXPLAIN"}
    explain = known[services.db.engine.dialect.name]
    with services.db.read() as session:
        connection = session.connection()
        return [
            "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))
            for statement, parameters in asked
            if statement.startswith(("SELECT", "UPDATE", "DELETE"))
        ]


def _asked(services: Services, call: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The statements of a call, with their parameters."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    events.listen(services.db.engine, "before_cursor_execute", note)
    call()
    events.remove(services.db.engine, "before_cursor_execute", note)
    return asked
