"""Health and workers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import update

from app.domain.worker import WorkerCapabilities, WorkerInfo
from app.services import context, health, workers
from app.services.context import Services
from app.settings import Settings
from app.storage.database import Database, now
from app.storage.tables import WorkerRow

GPU = WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"], keras="3.15.1", tensorflow="2.21.0")


def test_all_parts_answer(services: Services) -> None:
    parts = _parts(services)
    assert list(parts) == ["database", "store", "broker", "workers"]
    assert all(part.ok for part in parts.values())
    assert parts["database"].detail.split()[0] in {"SQLite", "PostgreSQL"}
    assert parts["workers"].detail == "none is live"


def test_a_broker_that_is_away_is_told_of(services: Services, bell: Any) -> None:
    bell.answers = False
    assert not _parts(services)["broker"].ok


def test_a_full_disk_is_told_of(services: Services, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, min_free_disk_bytes=2**62)
    assert not _parts(replace(services, settings=settings))["store"].ok


def test_a_store_that_is_gone_is_told_of(services: Services) -> None:
    shutil.rmtree(services.settings.artifacts_dir())
    assert not _parts(services)["store"].ok


def test_a_schema_that_is_behind_is_told_of(services: Services, tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    parts = _parts(replace(services, db=db))
    assert not parts["database"].ok
    assert "revision None" in parts["database"].detail
    db.close()


def test_a_database_that_is_away_is_told_of_without_its_secrets(services: Services, tmp_path: Path) -> None:
    db = Database(f"postgresql+psycopg://thaw:hunter2@/thaw?host={tmp_path}")
    parts = _parts(replace(services, db=db))
    assert not parts["database"].ok
    assert "hunter2" not in str(parts)
    db.close()


def test_workers_are_live_while_they_announce_themselves(services: Services) -> None:
    workers.announce(services, worker="w1", capabilities=GPU)
    workers.announce(services, worker="w1", capabilities=GPU)
    workers.announce(services, worker="w2", capabilities=WorkerCapabilities(queues=["cpu", "prepare"], devices=["cpu"]))
    assert workers.live(services)[0] == WorkerInfo(id="w1", live=True, **GPU.model_dump())
    assert [worker.id for worker in workers.live(services)] == ["w1", "w2"]
    assert _parts(services)["workers"].detail == "2 live: w1 (gpu), w2 (cpu, prepare)"
    with services.db.begin() as session:
        session.execute(update(WorkerRow).where(WorkerRow.id == "w1").values(seen_at=now() - 31))
    assert [worker.id for worker in workers.live(services)] == ["w2"]


def test_building_the_services_makes_their_folders_and_no_schema(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    services = context.build(settings)
    assert settings.work_dir().is_dir()
    assert settings.run_dir().is_dir()
    assert settings.data_dir.stat().st_mode & 0o077 == 0
    assert not _parts(services)["database"].ok
    services.db.close()


def _parts(services: Services) -> dict[str, health.PartHealth]:
    return {part.name: part for part in health.check(services)}
