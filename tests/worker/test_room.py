"""A worker without room takes no jobs, and gives its caches up first."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from app.settings import Settings
from app.storage.local import LocalArtifacts
from worker import room
from worker.engine import locks

LEAST = 1000


class Usage(NamedTuple):
    """Of a disk, as `shutil.disk_usage` tells it."""

    total: int
    used: int
    free: int


@pytest.fixture
def services(tmp_path: Path) -> Any:
    settings = Settings(data_dir=tmp_path, min_free_disk_bytes=LEAST)
    settings.work_dir().mkdir()
    return SimpleNamespace(settings=settings, store=LocalArtifacts(settings.artifacts_dir()))


def _cached(folder: Path, key: str) -> Path:
    entry = folder / key
    entry.mkdir(parents=True)
    (entry / "weights").write_bytes(b"w")
    return entry


def test_with_room_nothing_is_refused_and_nothing_is_deleted(services: Any) -> None:
    entry = _cached(services.settings.cache_dir(), "a")
    assert room.refusal(services) is None
    assert entry.is_dir()


def test_what_lies_in_caches_goes_before_anything_is_refused(services: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [_cached(folder, "a") for folder in (services.settings.cache_dir(), services.settings.features_dir())]

    def disk_usage(_path: Path) -> Usage:
        return Usage(0, 0, 0 if any(entry.is_dir() for entry in entries) else LEAST + 1)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert room.refusal(services) is None
    assert not any(entry.is_dir() for entry in entries)


def test_without_room_it_says_how_little_there_is_and_what_jobs_use_stays(
    services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = _cached(services.settings.cache_dir(), "a")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, LEAST))
    with locks.held(used.with_suffix(".lock"), shared=True):
        refusal = room.refusal(services)
    assert refusal == "its disk has 1,000 bytes free, and 1,000 are kept free (THAW_MIN_FREE_DISK_BYTES)"
    assert used.is_dir()


@pytest.mark.parametrize("full", ["work", "artifacts"])
def test_the_fuller_disk_counts(services: Any, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0 if full in path.parts[-2:] else 10**9))
    assert "0 bytes free" in (room.refusal(services) or "")


def test_a_disk_that_is_gone_is_a_reason_to_refuse(services: Any) -> None:
    services.settings.work_dir().rmdir()
    assert "cannot be used" in (room.refusal(services) or "")
