"""Every row belongs to a project, and every query names it."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from app.domain.dataset import DatasetOptions
from app.domain.model import ModelOptions
from app.services import claims, completion, datasets, files, history, idempotency, jobs, keys, models, uploads
from app.services.context import Services
from app.services.idempotency import StoredAnswer
from app.services.sweep import sweep
from app.storage.paging import PageQuery
from app.storage.tables import METADATA

REPOSITORIES = {
    *("assets", "checkpoints", "datasets", "events", "files", "idempotency"),
    *("jobs", "keys", "leases", "line", "metrics", "models", "blobs", "tallies", "uploads"),
}

WITHOUT_PROJECT = {
    # They find out to whom something belongs, from an id in a hint or from a key.
    ("leases", "project_of"),
    ("keys", "find"),
    # The sweeper's: over all projects; each row that they return names its own.
    ("leases", "expired"),
    ("leases", "unrung"),
    ("jobs", "decided"),
    ("jobs", "behind_time"),
    # The line's: workers serve all projects.
    ("line", "first"),
    ("line", "position"),
    ("checkpoints", "left_over"),
    ("idempotency", "remove_old"),
    ("uploads", "overdue"),
    ("uploads", "left_over"),
    # For those who run the service: they count all projects, or copy everything.
    ("blobs", "each_referred"),
    ("blobs", "irreplaceable"),
    ("blobs", "referred"),
    *(("tallies", name) for name in ("jobs_by_status", "queued_by_priority", "waiting", "held")),
    *(("tallies", name) for name in ("recent_endings", "recent_stages", "recent_caching", "oldest_waiting_seconds")),
    # They work on a row that the transaction holds already, which has its project.
    ("events", "append"),
    ("jobs", "ask_to_cancel"),
    ("jobs", "ask_to_pause"),
    ("jobs", "withdraw_pause"),
}

SHARED = {"alembic_version", "projects", "workers"}


def test_every_table_but_the_workers_has_a_project() -> None:
    without = {table.name for table in METADATA.sorted_tables if "project" not in table.columns}
    assert without == SHARED - {"alembic_version"}


def test_every_function_that_takes_a_session_takes_a_project() -> None:
    without = set()
    for name in REPOSITORIES:
        module = importlib.import_module(f"app.storage.{name}")
        for function in _public_functions(module):
            parameters = inspect.signature(function).parameters
            if "session" in parameters and "project" not in parameters:
                without.add((name, function.__name__))
    assert without == WITHOUT_PROJECT


def _public_functions(module: Any) -> Iterator[Any]:
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            yield function


@pytest.fixture
def statements(services: Services) -> Iterator[set[str]]:
    """Every statement that reads, changes or deletes rows."""
    seen: set[str] = set()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.add(re.sub(r"\s+", " ", statement))

    event.listen(services.db.engine, "before_cursor_execute", note)
    yield seen
    event.remove(services.db.engine, "before_cursor_execute", note)


def test_every_statement_of_a_whole_life_names_the_project(
    world: Any, services: Services, statements: set[str]
) -> None:
    _live(world, services)
    owned = {table.name for table in METADATA.sorted_tables} - SHARED
    touching = {each for each in statements if owned & set(re.findall(r"(?:FROM|UPDATE|JOIN) (\w+)", each))}
    assert len(touching) > 30
    assert {each for each in touching if not re.search(r"WHERE .*\bproject = ", each) and not _by_row(each)} == set()


def _by_row(statement: str) -> bool:
    """A row that was found before is written back by its key; `project_of` asks for nothing but the project."""
    return bool(
        re.search(r"^UPDATE \w+ SET .* WHERE \w+\.id = \S+$", statement)
        or re.search(r"^SELECT \w+\.project FROM \w+ WHERE \w+\.id = \S+$", statement)
    )


def _live(world: Any, services: Services) -> None:
    """Everything that people and workers do, but for the sweeper's and the keys' own statements."""
    file = world.file()
    files.get(services, "default", file.id)
    files.list_page(services, "default", PageQuery(after=file.id), purpose="fine-tune")
    job = world.job(model=file.id, training_file=world.file("a.zip").id, metadata={"a": "b"})
    world.finish_model(job.model_id)
    world.finish_dataset(job.dataset_id)
    jobs.plan(services, "default", world.request(model=job.model_id, training_file=job.dataset_id))
    claim = world.claim(job)
    claims.renew(services, claim)
    claims.wishes(services, claim)
    claims.release(services, claim, charge_attempt=True)
    jobs.request_pause(services, "default", job.id)
    jobs.resume(services, "default", job.id)
    claim = world.claim(job)
    told = [world.epoch(1), world.phase_end()]
    _report(services, claim, told, world.artifact())
    for number in range(1, 5):
        world.keep(claim, number, step=10)
    jobs.request_cancel(services, "default", job.id)
    world.succeed(claim)
    for filters in ({}, {"status": "queued", "metadata": {"a": "b"}}, {"model": job.model_id, "dataset": "d"}):
        jobs.list_page(services, "default", PageQuery(), **filters)
    for page in (history.events, history.metrics, history.checkpoints):
        page(services, "default", job.id, PageQuery())
    history.events_since(services, "default", job.id, after_number=1)
    idempotency.begin(services, "default", key="k", fingerprint="f")
    idempotency.forget(services, "default", key="k")
    idempotency.begin(services, "default", key="k", fingerprint="f")
    idempotency.once(idempotency.joined(services), "default", key="k", make=lambda: StoredAnswer(201, {}, ""))
    idempotency.begin(services, "default", key="k", fingerprint="f")
    _upload(services)
    models.list_page(services, "default", PageQuery(), status="ready")
    datasets.list_page(services, "default", PageQuery(), status="ready")
    models.delete(services, "default", job.model_id)
    datasets.delete(services, "default", job.dataset_id)
    files.delete(services, "default", file.id)


def _upload(services: Services) -> None:
    about = {"size": 3, "filename": "a", "purpose": "fine-tune", "mime_type": "a/b"}
    upload, other = (uploads.create(services, "default", **about) for _ in range(2))
    with services.store.writer(max_bytes=3) as writer:
        writer.write(b"one")
        blob = writer.commit()
    part = uploads.add_part(services, "default", upload.id, number=1, content=blob, sealed=blob)
    uploads.get_part(services, "default", upload.id, part.id)
    uploads.parts_page(services, "default", upload.id, PageQuery(after=part.id))
    for _ in range(2):
        completion.complete(services, "default", upload.id, part_ids=[part.id])
        uploads.cancel(services, "default", other.id)
    uploads.list_page(services, "default", PageQuery(), status="expired", sha256="0" * 64, filename="a")


def _report(services: Services, claim: claims.JobClaim, told: Any, artifact: Any) -> None:
    from app.services import reports

    reports.progress(services, claim, told, checkpoints={"c/1.weights": artifact})


def test_the_sweeper_changes_rows_of_each_project_under_its_name(
    world: Any, services: Services, statements: set[str]
) -> None:
    from app.storage.tables import JobRow, ModelRow

    claim = world.claim()
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    file_id = world.file().id
    datasets.create(services, "default", file_id=file_id, name=None, options=DatasetOptions())
    assert claims.claim_model(services, model.id, worker="w")
    world.expire(JobRow, claim.identifier)
    world.expire(ModelRow, model.id)
    keys.ensure_admin_key(services)
    statements.clear()
    sweep(services)
    changing = {each for each in statements if each.startswith("UPDATE") and "rung_at" not in each.split("WHERE")[0]}
    assert changing
    assert {each for each in changing if "project = " not in each and not _by_row(each)} == set()
