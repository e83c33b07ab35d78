"""A job's life, its process killed at its k-th statement, commit or store operation, for every k until it ends.

What a kill leaves is what the database makes of a connection that breaks off, and what lies in the store. In this
process an exception takes the part of the kill; from then on the dead one can reach neither database nor store, and
cleans nothing up.
"""

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import event

from app.domain.artifacts import Artifact
from app.domain.job import Job
from app.domain.states import TRANSITIONS
from app.services import claims, history, jobs, models, reports
from app.services.context import Services
from app.services.sweep import sweep
from app.storage.artifacts import ArtifactStore
from app.storage.local import LocalArtifacts
from app.storage.paging import PageQuery
from app.storage.spool import STALE_SECONDS, SpoolWriter
from app.storage.tables import JobRow

LAST_EPOCH = 2


class Killed(BaseException):  # an `except Exception` must not survive it
    """The process is dead."""


class Reaper:
    """Counts what a process does, and kills it before the k-th deed."""

    def __init__(self) -> None:
        self._left: int | None = None
        self.dead = False

    def arm(self, k: int) -> None:
        """Kill before the k-th deed from now."""
        self._left, self.dead = k, False

    def disarm(self) -> None:
        """A new process, which lives."""
        self._left, self.dead = None, False

    def deed(self, *_: object, **__: object) -> None:
        """Something that a kill may come before."""
        if self._left is None:
            return
        self._left -= 1
        if self._left <= 0:
            self.dead = True
            raise Killed


class MortalStore:
    """A store, each operation of which may be the last."""

    def __init__(self, store: ArtifactStore, reaper: Reaper) -> None:
        self._store, self._reaper = store, reaper

    def __getattr__(self, name: str) -> Any:
        """Before and after each operation: it may have been done, and nobody told of it."""
        operation = getattr(self._store, name)

        def mortal(*arguments: Any, **options: Any) -> Any:
            self._reaper.deed()
            result = operation(*arguments, **options)
            if name == "writer":
                return MortalWriter(result, self._reaper)
            self._reaper.deed()
            return result

        return mortal


class MortalWriter:
    """The same for a blob that is being written."""

    def __init__(self, writer: SpoolWriter, reaper: Reaper) -> None:
        self._writer, self._reaper = writer, reaper

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 (handed on)
        """The dead remove nothing; the kernel closes their files."""
        if self._reaper.dead:
            self._writer._file.close()
        else:
            self._writer.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        """What changes nothing in the store."""
        return getattr(self._writer, name)

    def write(self, chunk: bytes) -> None:
        self._reaper.deed()
        self._writer.write(chunk)

    def commit(self) -> Any:
        self._reaper.deed()
        blob = self._writer.commit()
        self._reaper.deed()
        return blob


@pytest.fixture
def reaper() -> Reaper:
    return Reaper()


@pytest.fixture
def at_statements(services: Services, reaper: Reaper) -> Iterator[None]:
    """Kills come at statements and commits."""
    engine = services.db.engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, reaper.deed)
    yield
    for name in ("before_cursor_execute", "commit"):
        event.remove(engine, name, reaper.deed)


@pytest.fixture
def at_the_store(world: Any, reaper: Reaper) -> None:
    """Kills come at operations of the store."""
    store: Any = MortalStore(world.services.store, reaper)
    world.services = dataclasses.replace(world.services, store=store)


def _live(world: Any, job: Job) -> None:
    """What a worker does with a job: claim, renew, report, keep, publish. It goes on from what was kept."""
    services = world.services
    claim = claims.claim_job(services, job.id, worker="w")
    if claim is None:
        return
    first = claim.checkpoints[0].phase.epoch + 1 if claim.checkpoints else 1
    for epoch in range(first, LAST_EPOCH + 1):
        claims.renew(services, claim)
        reports.progress(services, claim, [world.epoch(epoch)], checkpoints={})
        world.keep(claim, epoch, step=epoch * 10, epoch=epoch)
    weights = _upload(world, claim, "1.weights")
    reports.progress(services, claim, [world.phase_end()], checkpoints={"c/1.weights": weights})
    reports.succeed_job(
        services,
        claim,
        artifacts=[_upload(world, claim, name) for name in ("model.keras", "manifest.json")],
        canonical=[_upload(world, claim, "config.json")],
        info=world.info(labels=["a", "b"]),
        report=world.report(claim),
    )


def _upload(world: Any, claim: claims.JobClaim, name: str) -> Artifact:
    """The same bytes in every attempt, as of an exact resume."""
    with world.services.store.writer(max_bytes=1000) as writer:
        writer.write(f"{claim.identifier} {name}".encode())
        return Artifact(name=name, **writer.commit().model_dump())


def _kill_at_every(world: Any, reaper: Reaper, *, step: int = 1) -> int:
    """Kill before the first deed, the second (or one `step` on), … until a life ends by itself; how many it has."""
    model, dataset = world.model().id, world.dataset().id
    for k in itertools.count(1, step):
        job = world.job(model=model, training_file=dataset)
        reaper.arm(k)
        with contextlib.suppress(Killed):
            _live(world, job)
        killed = reaper.dead
        reaper.disarm()
        if world.get(job).status == "running":
            _check_history(world, job)
            world.expire(JobRow, job.id)
        sweep(world.services)
        _live(world, job)
        _check(world, job)
        if not killed:
            return k - 1
    raise AssertionError


def _check(world: Any, job: Job) -> None:
    """One success, one result, whose files are there; nothing counted twice or left out."""
    ended = world.get(job)
    assert ended.status == "succeeded"
    assert ended.attempt.number <= 2
    _check_history(world, job)
    rows = history.metrics(world.services, "default", job.id, PageQuery(limit=100, order="asc")).items
    assert [(row.number, row.phase.epoch) for row in rows] == [(epoch, epoch) for epoch in range(1, LAST_EPOCH + 1)]
    made = models.list_page(world.services, "default", PageQuery(limit=100), status="ready").items
    assert [model.id for model in made if model.job_id == job.id] == [ended.result_model_id]
    assert all(world.services.store.exists(each.sha256) for each in ended.artifacts)
    sweep(world.services)
    kept = history.checkpoints(world.services, "default", job.id, PageQuery(limit=100)).items
    assert [(each.kind, each.artifact is not None) for each in kept] == [("phase", True)]


def _check_history(world: Any, job: Job) -> None:
    told = history.events_since(world.services, "default", job.id, after_number=0)
    assert [each.number for each in told] == list(range(1, len(told) + 1))
    moves = [each.data["status"] for each in told if each.type in {"status", "completed"}]
    assert all(new in TRANSITIONS[old] for old, new in itertools.pairwise(moves))
    assert moves[-1] == jobs.get(world.services, "default", job.id).status


STEPS = {"sqlite": 1, "postgresql": 5}
"""On PostgreSQL the same statements are broken off, so a sample is enough."""


@pytest.mark.usefixtures("at_statements")
def test_a_job_survives_a_kill_before_each_of_its_statements(world: Any, reaper: Reaper) -> None:
    step = STEPS[world.services.db.engine.dialect.name]
    assert _kill_at_every(world, reaper, step=step) > 40


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("at_the_store")
def test_a_job_survives_a_kill_around_each_operation_of_the_store(world: Any, reaper: Reaper) -> None:
    assert _kill_at_every(world, reaper) > 20
    folder = world.services.settings.artifacts_dir()
    left = list((folder / "tmp").iterdir())
    assert left, "whoever is killed while it writes leaves a file"
    _age(left)
    LocalArtifacts(folder)  # as any process does when it starts
    assert list((folder / "tmp").iterdir()) == []


def _age(paths: Sequence[Path]) -> None:
    """They were written two days ago."""
    for path in paths:
        os.utime(path, times=(then := time.time() - 2 * STALE_SECONDS, then))
