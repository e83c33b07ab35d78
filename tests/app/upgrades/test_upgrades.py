"""From every revision that the schema has had to this version's, with rows in it, on both databases."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select

from app.api.schemas.jobs import JobObject
from app.domain.states import JobStatus
from app.domain.worker import WorkerCapabilities
from app.services import aside, claims, datasets, history, jobs, models
from app.services.context import Services
from app.services.sweep import sweep
from app.settings import Settings
from app.storage.database import Database, configuration, upgrade
from app.storage.local import LocalArtifacts
from app.storage.paging import PageQuery
from app.storage.tables import METADATA, JobRow
from tests.app.conftest import PROJECT, Bell, World
from tests.app.upgrades import rows
from tests.app.upgrades.rows import Row, Rows

REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions())
ALL = PageQuery(limit=100, order="asc")


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, revision: str, tmp_path: Path) -> Iterator[Database]:
    """A database of this revision, with the rows that Thaw wrote then."""
    url = f"sqlite:///{tmp_path / 'thaw.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_database(f"upgrade_{revision}")
    db = Database(url)
    with db.begin() as session:
        command.upgrade(configuration(session.connection()), revision)
        rows.insert(session.connection(), rows.read(revision))
    yield db
    db.close()


@pytest.fixture
def upgraded(old: Database, tmp_path: Path) -> Services:
    upgrade(old)
    settings = Settings(data_dir=tmp_path)
    return Services(settings=settings, db=old, store=LocalArtifacts(settings.artifacts_dir()), doorbell=Bell())


def test_what_was_written_before_is_whole_and_works(upgraded: Services, revision: str) -> None:
    """One test, as it is the upgrade that takes time."""
    _is_this_versions_schema(upgraded.db)
    before = rows.read(revision)
    _has_what_it_had(upgraded.db, before, revision)
    _knows_since_when_jobs_wait(upgraded.db, before)
    found = _shows_everything(upgraded, before)
    _works(World(upgraded), found)
    _can_be_taken_back(upgraded.db, revision)


def _is_this_versions_schema(db: Database) -> None:
    with db.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def _has_what_it_had(db: Database, before: Rows, revision: str) -> None:
    with db.read() as session:
        after = rows.dump(session.connection())
    for table, known in before.items():
        expected = [row for row in known if not _goes(table, row, before, revision)]
        assert expected
        assert [_same_columns(row, known[0]) for row in after[table]] == expected


def _knows_since_when_jobs_wait(db: Database, before: Rows) -> None:
    """Their rows changed last when they came into the queue."""
    with db.read() as session:
        found = {row.id: row.queued_at for row in session.execute(select(JobRow.id, JobRow.queued_at))}
    assert found == {row["id"]: row["updated_at"] if row["status"] == "queued" else None for row in before["jobs"]}


def _goes(table: str, row: Row, before: Rows, revision: str) -> bool:
    """Of the first schema alone: what attempts had measured that were begun anew was not listed any more."""
    if revision != "0001" or table not in {"checkpoints", "metrics"}:
        return False
    (job,) = [each for each in before["jobs"] if each["id"] == row["job_id"]]
    return bool(row["attempt"] < job["attempt"])


def _same_columns(row: Row, known: Row) -> Row:
    return {name: value for name, value in row.items() if name in known}


def _shows_everything(services: Services, before: Rows) -> dict[JobStatus, list[str]]:
    """All of it can be read by services, in their own types; the ids of jobs by status."""
    listed = jobs.list_page(services, PROJECT, ALL).items
    assert Counter(job.status for job in listed) == Counter(row["status"] for row in before["jobs"])
    for job in listed:
        found = jobs.get(services, PROJECT, job.id)
        assert JobObject.of(found).id == job.id
        events = history.events(services, PROJECT, job.id, ALL).items
        assert [event.number for event in events] == list(range(1, len(_of(job.id, before["events"])) + 1))
        epochs = history.metrics(services, PROJECT, job.id, ALL).items
        assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
        history.checkpoints(services, PROJECT, job.id, ALL)
        assert (found.report is not None) is (job.status == "succeeded")
    assert len(models.list_page(services, PROJECT, ALL).items) == len(before["models"])
    assert len(datasets.list_page(services, PROJECT, ALL).items) == len(before["datasets"])
    return {status: [job.id for job in listed if job.status == status] for status in {job.status for job in listed}}


def _of(job_id: str, found: list[Row]) -> list[Row]:
    return [row for row in found if row["job_id"] == job_id]


def _works(world: World, found: dict[JobStatus, list[str]]) -> None:
    """A queued job is trained to its end, running ones are taken from their dead workers, others go their ways."""
    services = world.services
    claim = claims.claim_next(services, found["queued"][0], worker="worker-2")
    assert claim is not None
    world.keep(claim, 1, step=10)
    assert world.succeed(claim).status == "succeeded"
    taken_back = sweep(services).taken_back
    assert taken_back >= len(found["running"])
    ended = [jobs.get(services, PROJECT, job_id).status for job_id in found["running"]]
    assert set(ended) <= {"queued", "cancelled"}
    for job_id in found.get("paused", []):
        _resumes(services, job_id)
    for job_id in found["validating_files"]:
        assert jobs.request_cancel(services, PROJECT, job_id).status == "cancelled"


def _resumes(services: Services, job_id: str) -> None:
    """A job that a full disk had set aside, long ago, does so by itself."""
    if jobs.get(services, PROJECT, job_id).set_aside is None:
        assert jobs.resume(services, PROJECT, job_id).status == "queued"
        return
    aside.resume(services, WorkerCapabilities(queues=["cpu"], devices=["cpu"]))
    assert jobs.get(services, PROJECT, job_id).status == "queued"


def _can_be_taken_back(db: Database, revision: str) -> None:
    with db.begin() as session:
        before = len(rows.dump(session.connection())["jobs"])
        command.downgrade(configuration(session.connection()), revision)
        assert len(rows.dump(session.connection())["jobs"]) == before


def test_the_newest_rows_are_of_every_table() -> None:
    assert set(rows.read(REVISIONS[-1])) >= {table.name for table in METADATA.sorted_tables} - {"projects"}


def test_the_page_says_what_each_revision_changed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "upgrading.md").read_text(encoding="utf-8")
    assert [revision for revision in REVISIONS if f"| {revision} |" not in page] == []
