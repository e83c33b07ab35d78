"""A service in its data folder, and what it has restored elsewhere."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import backup
from app.services import context
from app.services.context import Services
from app.settings import Settings
from app.storage import blobs, snapshot
from app.storage.database import Database, upgrade


@pytest.fixture
def db(sqlite_database: Database, tmp_path: Path) -> Iterator[Database]:
    """In the data folder, where an embedded service has it."""
    (tmp_path / "data").mkdir(mode=0o700)
    snapshot.copy(sqlite_database, tmp_path / "data" / "thaw.db")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'thaw.db'}")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", min_free_disk_bytes=0)


@pytest.fixture
def services(settings: Settings, db: Database) -> Iterator[Services]:
    assert db.engine.url.database == str(settings.data_dir / "thaw.db")
    built = context.build(settings)
    yield built
    built.db.close()


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Any]:
    """Restores a backup into an empty folder and opens it."""
    opened: list[Services] = []

    def restore(path: Path) -> Services:
        settings = Settings(data_dir=tmp_path / f"restored-{len(opened)}", min_free_disk_bytes=0)
        backup.restore(settings, path)
        opened.append(context.build(settings))
        return opened[-1]

    yield restore
    for each in opened:
        each.db.close()


def intact(services: Services) -> int:
    """Every blob that a row refers to is there with the right bytes; how many there are."""
    with services.db.read() as session:
        needed = blobs.referred(session)
    for sha256, size in needed.items():
        content = b"".join(services.store.read(sha256))
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, size)
    return len(needed)


def finished_job(world: Any) -> str:
    """With real blobs wherever its rows have some."""
    job = world.job()
    world.services.store.put_file(stored(world.services, b"any"))
    claim = world.claim(job)
    for number in range(1, 4):
        world.keep(claim, number, step=number)
    return str(job.id)


def stored(services: Services, content: bytes) -> Path:
    path = services.settings.data_dir / "content"
    path.write_bytes(content)
    return path


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(each.name, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]


@pytest.fixture
def world(world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose artifacts are in the store."""

    def artifact(name: str = "model.keras") -> Any:
        from app.domain.artifacts import Artifact

        blob = world.services.store.put_file(stored(world.services, name.encode()))
        return Artifact(name=name, **blob.model_dump())

    monkeypatch.setattr(world, "artifact", artifact)
    return world
