"""The services themselves, on SQLite, for histories that they write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services.context import Services
from app.settings import Settings
from app.storage.database import Database, upgrade
from app.storage.local import LocalArtifacts
from tests.app.conftest import Bell, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("world")
    settings, db = Settings(data_dir=folder), Database(f"sqlite:///{folder / 'thaw.db'}")
    upgrade(db)
    yield World(Services(settings=settings, db=db, store=LocalArtifacts(settings.artifacts_dir()), doorbell=Bell()))
    db.close()
