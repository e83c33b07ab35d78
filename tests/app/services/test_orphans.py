"""Bytes without a row are deleted, sooner or later; bytes with one, or about to get one, never."""

import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.artifacts import Artifact, Blob
from app.domain.model import ModelOptions
from app.domain.progress import WeightsKept
from app.services import claims, datasets, files, models, reports, uploads
from app.services.context import Services
from app.services.orphans import remove_orphans
from app.storage.artifacts import StoredBlob
from app.storage.blobs import COLUMNS
from app.storage.columns import Base
from app.storage.tables import (
    CheckpointRow,
    DatasetRow,
    EventRow,
    IdempotencyRow,
    JobRow,
    MetricRow,
    ModelRow,
    WorkerRow,
)

WITHOUT_BLOBS = (
    *(IdempotencyRow.headers, WorkerRow.capabilities, EventRow.data, MetricRow.phase, MetricRow.metrics),
    *(ModelRow.error, ModelRow.options, ModelRow.info),
    *(DatasetRow.error, DatasetRow.options, DatasetRow.info, DatasetRow.preview),
    *(JobRow.error, JobRow.spec, JobRow.labels, JobRow.stage_history, JobRow.phase, JobRow.report),
    JobRow.forked_from,
    *(CheckpointRow.phase, CheckpointRow.metrics),
)


def _stored(services: Services, content: str) -> Artifact:
    with services.store.writer(max_bytes=1000) as writer:
        writer.write(content.encode())
        return Artifact(name="config.json", **writer.commit().model_dump())


def _age(services: Services, *digests: str, seconds: float = 2 * 86_400.0) -> None:
    for sha256 in digests or [blob.sha256 for blob in services.store.list_blobs()]:
        then = time.time() - seconds
        os.utime(services.store.path_of(sha256), (then, then))  # type: ignore[attr-defined]  # the local store


def test_every_column_that_may_hold_artifacts_is_known() -> None:
    from sqlalchemy import JSON

    tables = Base.metadata.tables.values()
    columns = [str(column) for table in tables for column in table.columns if isinstance(column.type, JSON)]
    listed = [str(each.property.columns[0]) for each in (*COLUMNS, *WITHOUT_BLOBS)]
    assert sorted(listed) == sorted(columns), "decide whether the new column holds artifacts"


def test_what_nothing_refers_to_is_deleted_once_it_is_old(world: Any, services: Services) -> None:
    world.file()
    old, young = _stored(services, "old"), _stored(services, "young")
    _age(services, old.sha256)
    assert remove_orphans(services) == 1
    assert (services.store.exists(old.sha256), services.store.exists(young.sha256)) == (False, True)


def test_a_clock_of_this_machine_that_is_ahead_makes_nothing_old(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file()
    young = _stored(services, "young")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * 86_400)
    assert remove_orphans(services) == 0
    assert services.store.exists(young.sha256)


def test_what_any_row_refers_to_stays(world: Any, services: Services) -> None:
    claim = world.claim()
    artifacts = {name: _stored(services, name) for name in ("canonical", "phase", "best", "result", "download")}
    ended = world.phase_end()
    best = WeightsKept(phase=world.place(2, phase=2), step=1, metrics={}, checkpoint="c/best")
    reports.progress(
        services,
        claim,
        [ended, best],
        checkpoints={ended.checkpoint: artifacts["phase"], best.checkpoint: artifacts["best"]},
    )
    kept = world.keep(claim, 1, step=1)
    done = world.job()
    reports.succeed_job(
        services,
        world.claim(done),
        artifacts=[artifacts["result"], artifacts["download"].model_copy(update={"name": "model.keras"})],
        canonical=[artifacts["canonical"]],
        info=world.info(),
        report=world.report(claim),
    )
    dataset = datasets.create(
        services, "default", file_id=world.file("d.zip").id, name=None, options=world.dataset().options
    )
    held = claims.claim_dataset(services, dataset.id, worker="w")
    canonical = _stored(services, "examples")
    assert held is not None
    reports.finish_dataset(services, held, info=world.data_info(), preview=[], canonical=[canonical])
    _age(services)
    before = {blob.sha256 for blob in services.store.list_blobs()}
    assert {*kept, canonical.sha256, *(each.sha256 for each in artifacts.values())} <= before
    assert remove_orphans(services) == 0
    assert {blob.sha256 for blob in services.store.list_blobs()} == before


def test_the_bytes_of_a_deleted_row_go_unless_another_row_has_the_same(world: Any, services: Services) -> None:
    shared, alone = world.file("shared.keras"), world.file("alone.keras")
    world.file("other.keras")
    model = models.register(services, "default", file_id=shared.id, name=None, options=ModelOptions())
    world.finish_model(model.id)
    for file in (shared, alone):
        files.delete(services, "default", file.id)
    _age(services)
    assert remove_orphans(services) == 1
    assert services.store.exists(shared.blob.sha256), "the model can still be downloaded"
    assert not services.store.exists(alone.blob.sha256)


def test_an_upload_of_what_lies_there_as_an_orphan_saves_it(world: Any, services: Services) -> None:
    world.file("other.keras")
    orphan = _stored(services, "once more")
    _age(services, orphan.sha256)
    assert _stored(services, "once more") == orphan
    assert remove_orphans(services) == 0
    assert services.store.exists(orphan.sha256)


def test_an_upload_in_the_middle_of_a_sweep_saves_it_too(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file("other.keras")
    orphan = _stored(services, "once more")
    _age(services, orphan.sha256)
    remove = services.store.remove_older

    def late(sha256: str, *, than: float) -> bool:
        _stored(services, "once more")  # after it was listed, and after rows were read
        return remove(sha256, than=than)

    monkeypatch.setattr(services.store, "remove_older", late)
    assert remove_orphans(services) == 0
    assert services.store.exists(orphan.sha256)


def test_uploads_and_sweeps_at_the_same_moment_lose_nothing(world: Any, services: Services) -> None:
    world.file("other.keras")
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            remove_orphans(services)

    with ThreadPoolExecutor(3) as threads:
        sweepers = [threads.submit(sweep) for _ in range(2)]
        try:
            for number in range(60):
                stored = _stored(services, f"{number % 3}")
                _age(services, stored.sha256)
                again = _stored(services, f"{number % 3}")
                assert services.store.exists(again.sha256), "as long as it is young"
        finally:
            over.set()
    assert all(sweeper.exception() is None for sweeper in sweepers)


def test_of_several_sweepers_each_orphan_is_deleted_by_one(world: Any, services: Services) -> None:
    world.file()
    orphans = [_stored(services, f"orphan {number}") for number in range(20)]
    _age(services, *(each.sha256 for each in orphans))
    with ThreadPoolExecutor(4) as threads:
        removed = list(threads.map(lambda _: remove_orphans(services), range(4)))
    assert sum(removed) == len(orphans)


def test_a_database_that_knows_nothing_of_the_store_deletes_nothing(world: Any, services: Services) -> None:
    orphan = _stored(services, "of another database")
    _age(services)
    assert remove_orphans(services) == 0
    services.store.remove(world.file().blob.sha256)  # now it refers to what is in another store
    assert remove_orphans(services) == 0
    assert services.store.exists(orphan.sha256)
    world.file("of this database")
    assert remove_orphans(services) == 1


def test_what_killed_writers_left_goes_when_it_is_a_day_old(services: Services) -> None:
    folder = services.settings.artifacts_dir() / "tmp"
    for name in ("old", "young"):
        (folder / name).write_bytes(b"half of")
    os.utime(folder / "old", times=(then := time.time() - 86_500, then))
    assert remove_orphans(services) == 0
    assert [path.name for path in folder.iterdir()] == ["young"]


def test_blobs_that_are_young_take_no_memory(world: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file()
    old, now = _stored(services, "old"), time.time()
    _age(services, old.sha256)

    def very_many() -> Iterator[StoredBlob]:
        yield from (StoredBlob(f"{number:064x}", now) for number in range(10_000))
        yield from there

    remove_orphans(services)  # loads what it needs
    _age(services, _stored(services, "old").sha256)
    there = list(services.store.list_blobs())
    monkeypatch.setattr(services.store, "list_blobs", very_many)
    tracemalloc.start()
    try:
        assert remove_orphans(services) == 1
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_parts_are_needed_while_their_upload_is_pending_and_not_after(world: Any, services: Services) -> None:
    world.file("other.keras")
    about = {"size": 100, "filename": "a", "purpose": "fine-tune", "mime_type": "a/b"}
    pending, cancelled = (uploads.create(services, "default", **about) for _ in range(2))
    stored = {upload.id: _stored(services, upload.id) for upload in (pending, cancelled)}
    parts = {name: Blob(sha256=each.sha256, bytes=each.bytes) for name, each in stored.items()}
    for identifier, part in parts.items():
        uploads.add_part(services, "default", identifier, number=1, content=part, sealed=part)
    _age(services)
    assert remove_orphans(services) == 0
    uploads.cancel(services, "default", cancelled.id)
    assert remove_orphans(services) == 1
    assert services.store.exists(parts[pending.id].sha256)
