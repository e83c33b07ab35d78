"""Health and workers."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from app.doctor import keeping
from app.domain.worker import WorkerCapabilities, WorkerInfo
from app.services import context, health, workers
from app.services.context import Services
from app.services.health import KEPT_SECONDS, Checkup
from app.settings import Settings
from app.storage import snapshot
from app.storage.database import Database, now
from app.storage.tables import WorkerRow

GPU = WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"], keras="3.15.1", tensorflow="2.21.0")

NOBODY = 65534


def test_all_parts_answer(services: Services) -> None:
    parts = _parts(services)
    assert list(parts) == ["database", "store", "broker", "workers"]
    assert all(part.ok for part in parts.values())
    assert parts["database"].detail.split()[0] in {"SQLite", "PostgreSQL"}
    assert parts["workers"].detail == "none is live"


def test_a_broker_that_is_away_is_told_of(services: Services, bell: Any) -> None:
    bell.answers = False
    parts = _parts(services)
    assert not parts["broker"].ok
    assert {name for name, part in parts.items() if part.needed} == {"database", "store"}


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_the_store_is_tried_out_once_however_many_ask_at_a_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, clock = [], SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(health, "time", clock)
    monkeypatch.setattr(health.artifacts, "try_out", lambda store: tried.append(store) or time.sleep(0.05))
    checkup = Checkup(services)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: checkup.parts()[1], range(8)))
    assert (len(tried), {part.ok for part in answers}) == (1, {True})
    shutil.rmtree(services.settings.artifacts_dir())
    clock.monotonic = lambda: 99.9 + KEPT_SECONDS
    assert checkup.parts()[1].ok, "its last answer"
    clock.monotonic = lambda: 100.0 + KEPT_SECONDS
    assert not checkup.parts()[1].ok
    assert not checkup.parts()[1].ok


def test_a_full_disk_is_told_of(services: Services, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, min_free_disk_bytes=2**62)
    assert not _parts(replace(services, settings=settings))["store"].ok


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_a_full_disk_of_the_database_alone_is_told_of(
    services: Services, own_sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept = Path(str(own_sqlite.engine.url.database)).resolve().parent, 10**6
    services = replace(services, db=own_sqlite, settings=Settings(min_free_disk_bytes=kept))
    free = {folder: kept}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(path, 2**40)))
    assert _parts(services)["database"].ok
    free[folder] -= 1
    parts = _parts(services)
    assert (parts["database"].ok, parts["store"].ok) == (False, True)
    assert parts["database"].detail == "999,999 bytes free, at least 1,000,000 are kept free"


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


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
def test_a_database_that_accepts_no_writes_is_told_of_with_what_to_do(services: Services) -> None:
    url = services.db.engine.url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    services = replace(services, db=Database(url.render_as_string(hide_password=False)))
    part = _parts(services)["database"]
    assert not part.ok
    assert "can only be read: default_transaction_read_only is on. Set it to off" in part.detail
    assert keeping.writing(services).verdict == "problem"
    services.db.close()


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
@pytest.mark.parametrize("read_only", ["thaw.db", "thaw.db-wal", "."])
def test_an_sqlite_that_cannot_be_written_is_told_of_with_what_to_do(
    services: Services, own_sqlite: Database, read_only: str
) -> None:
    services = replace(services, db=own_sqlite)
    with _unprivileged():
        assert _parts(services)["database"].ok
        path = Path(str(own_sqlite.engine.url.database)).parent / read_only
        path.chmod(0o500 if path.is_dir() else 0o400)
        part = _parts(services)["database"]
        assert not part.ok
        assert f"can only be read: {path} cannot be written. Let the user" in part.detail
        assert str(path) in keeping.writing(services).found
        path.chmod(0o700)
        assert _parts(services)["database"].ok


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_an_sqlite_is_where_its_link_leads_to(own_sqlite: Database, services: Services) -> None:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "thaw.db"
        link.symlink_to(str(own_sqlite.engine.url.database))
        Path(folder).chmod(0o555)
        linked = Database(f"sqlite:///{link}")
        with _unprivileged():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            assert _parts(replace(services, db=linked))["database"].ok
        linked.close()
        Path(folder).chmod(0o700)


def test_a_writer_that_is_at_work_makes_nobody_unready_and_is_not_waited_for(services: Services) -> None:
    with services.db.begin():
        started = time.monotonic()
        assert _parts(services)["database"].ok
        assert time.monotonic() - started < 5, "SQLite would wait for 30 s"


@pytest.fixture
def own_sqlite(sqlite_database: Database) -> Iterator[Database]:
    """A copy where whoever is unprivileged may write; pytest's folders are their owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "thaw.db"
        snapshot.copy(sqlite_database, path)
        if os.geteuid() == 0:
            for each in (path, path.parent):
                os.chown(each, NOBODY, NOBODY)
        database = Database(f"sqlite:///{path}")
        yield database
        database.close()


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    """Not as root, who may write whatever its permissions say."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


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
    return {part.name: part for part in Checkup(services).parts()}
