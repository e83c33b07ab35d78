"""Backups of a service that runs, and what comes back."""

import contextlib
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

import app.backup.taking
from app import backup
from app.domain.errors import ConflictError, NotFoundError, PlatformError, StorageFullError
from app.services import claims, context, files, history, jobs, uploads
from app.services.completion import complete
from app.services.context import Services
from app.services.sweep import sweep
from app.settings import Settings
from app.storage import blobs, snapshot
from app.storage.columns import JsonList, JsonObject
from app.storage.database import Database, now, sqlite_library
from app.storage.local import LocalArtifacts
from app.storage.paging import PageQuery
from app.storage.tables import METADATA, CheckpointRow, FileRow, JobRow
from tests.app.backup.conftest import finished_job, intact, members
from tests.chaos.disks import mountable

PROJECT = "default"


# === What comes back ===


def test_everything_comes_back_with_the_right_bytes(
    world: Any, services: Services, settings: Settings, tmp_path: Path, restored: Any
) -> None:
    job_id = finished_job(world)
    done = world.claim()
    world.succeed(done)
    summary = backup.take(settings, tmp_path / "b.tar")
    again = restored(tmp_path / "b.tar")
    assert intact(again) == summary.blobs == intact(services)
    assert summary.lost == []
    for job in (job_id, done.identifier):
        assert jobs.get(again, PROJECT, job) == jobs.get(services, PROJECT, job)
        page = PageQuery(limit=100)
        assert history.events(again, PROJECT, job, page) == history.events(services, PROJECT, job, page)

    with again.db.begin() as session:  # the other one's worker is not heard of here
        session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_expires_at=now() - 1))
    assert sweep(again).taken_back == 1
    claim = claims.claim_job(again, job_id, worker="w2")
    assert claim is not None
    assert (claim.attempt, claim.checkpoints[0].step) == (2, 3), "it goes on from what was kept last"
    with again.db.read() as session:
        assert session.get_one(JobRow, job_id).lost_attempts == 1


def test_a_backup_during_writes_is_of_one_moment(
    services: Services, settings: Settings, tmp_path: Path, world: Any, restored: Any
) -> None:
    over, written = threading.Event(), [world.file(f"file-0-{number}") for number in range(5)]

    def write(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            written.append(world.file(f"file-{thread}-{number}"))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in (1, 2)]
    for thread in threads:
        thread.start()
    counts = []
    try:
        for number in range(3):
            _until_longer(written)
            before = {file.id for file in list(written)}
            assert backup.take(settings, tmp_path / f"{number}.tar").lost == []
            again = restored(tmp_path / f"{number}.tar")
            with again.db.read() as session:
                found = set(session.scalars(select(FileRow.id)))
            assert before <= found
            counts.append(intact(again))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert counts == sorted(set(counts)), "each has more than the one before"
    assert files.get(services, PROJECT, written[-1].id)


def _until_longer(written: Sequence[object]) -> None:
    length, deadline = len(written), time.monotonic() + 60
    while len(written) == length:
        assert time.monotonic() < deadline, "nobody writes"
        time.sleep(0.01)


def test_an_upload_in_parts_goes_on_after_a_restore_and_parts_of_one_that_has_ended_are_not_kept(
    services: Services, settings: Settings, tmp_path: Path, restored: Any
) -> None:
    about = {"size": 3, "filename": "a", "purpose": "fine-tune", "mime_type": "a/b"}
    pending, ended = (uploads.create(services, PROJECT, **about) for _ in range(2))
    for upload in (pending, ended):
        with services.store.writer(max_bytes=3) as writer:
            writer.write(b"one")
            content = writer.written()
            writer.seal()
            sealed = writer.commit()
        uploads.add_part(services, PROJECT, upload.id, number=1, content=content, sealed=sealed)
    uploads.cancel(services, PROJECT, ended.id)
    assert backup.take(settings, tmp_path / "b.tar").blobs == 1
    again = restored(tmp_path / "b.tar")
    (part,) = uploads.parts_page(again, PROJECT, pending.id, PageQuery()).items
    done = complete(again, PROJECT, pending.id, part_ids=[part.id])
    assert done.file is not None
    assert b"".join(again.store.read(done.file.blob.sha256)) == b"one"


def test_what_is_deleted_while_it_is_copied_is_not_missed(
    settings: Settings, world: Any, restored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, tmp_path = world.services, settings.data_dir.parent
    claim = world.claim()
    first = world.keep(claim, 1, step=1)
    copied: list[Path] = []

    def copy(db: Database, path: Path) -> None:
        snapshot_copy(db, path)
        if not copied:  # two newer checkpoints take the place of the first one, whose files are deleted
            world.keep(claim, 2, step=2, val_loss=0.4)
            world.keep(claim, 3, step=3, val_loss=0.3)
        copied.append(path)

    snapshot_copy = snapshot.copy
    monkeypatch.setattr(app.backup.taking.snapshot, "copy", copy)
    summary = backup.take(settings, tmp_path / "b.tar")
    assert not services.store.exists(first[0])
    assert (summary.lost, len(copied)) == ([], 2)
    again = restored(tmp_path / "b.tar")
    intact(again)
    with again.db.read() as session:
        assert sorted(session.scalars(select(CheckpointRow.number))) == [2, 3]


def test_what_jobs_supersede_in_every_round_is_not_lost(
    settings: Settings, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, tmp_path = world.services, settings.data_dir.parent
    claim, lost = world.claim(), world.file("lost").blob.sha256
    services.store.remove(lost)
    kept = [world.keep(claim, number, step=number, val_loss=1 / number) for number in (1, 2)]

    def copy(db: Database, path: Path) -> None:
        snapshot_copy(db, path)
        numbers = (len(kept) + 1, len(kept) + 2)
        kept.extend([world.keep(claim, number, step=number, val_loss=1 / number) for number in numbers])

    snapshot_copy = snapshot.copy
    monkeypatch.setattr(app.backup.taking.snapshot, "copy", copy)
    summary = backup.take(settings, tmp_path / "b.tar")
    superseded = sorted(sha256 for files in kept[-4:-2] for sha256 in files)
    assert len(kept) == 2 + 2 * app.backup.taking.ROUNDS
    assert (summary.lost, summary.superseded) == ([lost], superseded)
    again = backup.restore(Settings(data_dir=tmp_path / "again", min_free_disk_bytes=0), tmp_path / "b.tar")
    assert (again.lost, again.superseded) == ([lost], superseded)


def test_what_people_delete_in_every_round_is_no_superseded_checkpoint(
    settings: Settings, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, deleted = world.services, []

    def copy(db: Database, path: Path) -> None:
        file = world.file(f"in round {len(deleted)}")
        snapshot_copy(db, path)
        with services.db.begin() as session:
            session.execute(delete(FileRow).where(FileRow.id == file.id))
        services.store.remove(file.blob.sha256)
        deleted.append(file.blob.sha256)

    snapshot_copy = snapshot.copy
    monkeypatch.setattr(app.backup.taking.snapshot, "copy", copy)
    summary = backup.take(settings, settings.data_dir.parent / "b.tar")
    assert len(deleted) == app.backup.taking.ROUNDS
    assert (summary.lost, summary.superseded) == ([deleted[-1]], [])


def test_what_an_ended_job_went_on_from_is_not_missed_while_it_is_deleted(
    settings: Settings, world: Any, restored: Any
) -> None:
    claim = world.claim()
    for sha256 in world.keep(claim, 1, step=1):
        world.services.store.remove(sha256)  # before the row, as sweeps do
    backup_path = settings.data_dir.parent / "b.tar"
    assert backup.take(settings, backup_path).lost, "while the job may need them"
    world.succeed(claim)
    summary = backup.take(settings, backup_path, replace=True)
    assert (summary.lost, summary.superseded) == ([], [])
    intact(restored(backup_path))


def test_what_is_deleted_between_the_look_and_the_opening_of_its_file_is_not_missed(
    settings: Settings, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, tmp_path = world.services, settings.data_dir.parent
    file = world.file("soon gone")
    read, rounds = LocalArtifacts.read, []

    def read_late(store: LocalArtifacts, sha256: str) -> Iterator[bytes]:
        chunks = read(store, sha256)
        if sha256 == file.blob.sha256:
            rounds.append(sha256)
            with services.db.begin() as session:
                session.execute(delete(FileRow).where(FileRow.id == file.id))
            store.remove(sha256)
        return chunks

    monkeypatch.setattr(LocalArtifacts, "read", read_late)
    assert backup.take(settings, tmp_path / "b.tar").lost == []
    assert len(rounds) == 1, "the second copy of the database does not need it"
    assert f"blobs/{file.blob.sha256}" not in dict(members(tmp_path / "b.tar"))


def test_blobs_that_the_store_had_lost_or_damaged_are_named_and_nothing_else_is_missing(
    services: Services, settings: Settings, tmp_path: Path, world: Any
) -> None:
    lost, short, wrong, whole = (world.file(f"file {number}").blob.sha256 for number in range(4))
    services.store.remove(lost)
    for sha256, content in ((short, b"f"), (wrong, b"file x")):
        path = services.store.path_of(sha256)  # type: ignore[attr-defined]  # a local one
        path.chmod(0o600)
        path.write_bytes(content)
    assert backup.take(settings, tmp_path / "b.tar").lost == sorted([lost, short, wrong])
    target = Settings(data_dir=tmp_path / "again", min_free_disk_bytes=0)
    assert backup.restore(target, tmp_path / "b.tar").lost == sorted([lost, short, wrong])
    store = context.build(target).store
    assert [store.exists(sha256) for sha256 in (lost, short, wrong, whole)] == [False, False, False, True]
    found = [path for path in (tmp_path / "again" / "artifacts" / "sha256").rglob("*") if path.is_file()]
    assert [path.name for path in found] == [whole]


# === Secrets ===


def test_a_backup_is_its_owners_alone_and_holds_no_key(
    services: Services, settings: Settings, tmp_path: Path, restored: Any
) -> None:
    from app.services import keys

    token = keys.ensure_admin_key(services).read_text().strip()
    backup.take(settings, tmp_path / "b.tar")
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
    assert token.encode() not in (tmp_path / "b.tar").read_bytes()
    again = restored(tmp_path / "b.tar")
    assert not again.settings.api_key_file().exists()
    assert keys.authenticate(again, token).project == PROJECT, "the key that people hold goes on to work"
    assert keys.ensure_admin_key(again).read_text().strip() != token
    assert stat.S_IMODE((again.settings.data_dir / "thaw.db").stat().st_mode) == 0o600


# === Refusals ===


@pytest.mark.usefixtures("services")
def test_a_backup_replaces_another_only_if_it_is_told_to(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(b"an older one")
    with pytest.raises(ConflictError, match="--force"):
        backup.take(settings, path)
    assert path.read_bytes() == b"an older one"
    backup.take(settings, path, replace=True)
    assert tarfile.is_tarfile(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.tar", "data"]


@pytest.mark.usefixtures("services")
def test_a_backup_that_fails_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = sqlite_library()
    connect = library.connect

    def small(path: Path, **options: Any) -> Any:
        connection = connect(path, **options)
        if Path(path).name == "copy.db":
            connection.execute("PRAGMA max_page_count = 10")  # SQLite's own error for a full disk
        return connection

    monkeypatch.setattr(library, "connect", small)
    with pytest.raises(StorageFullError, match="no room"):
        backup.take(settings, tmp_path / "b.tar")
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


@pytest.mark.skipif(not mountable(), reason="only root may mount a small disk")
@pytest.mark.usefixtures("services")
def test_a_disk_that_is_full_is_said_wherever_it_gets_full(settings: Settings, tmp_path: Path) -> None:
    size = (settings.data_dir / "thaw.db").stat().st_size
    backup.take(settings, tmp_path / "b.tar")
    for share in (0.5, 1.1, 1.5):  # while SQLite copies, when it opens the copy, in the archive
        with small_disk(tmp_path / "small", int(size * share)) as disk:
            with pytest.raises(StorageFullError, match="no room"):
                backup.take(settings, disk / "b.tar")
            assert list(disk.iterdir()) == []
            if share < 1:
                with pytest.raises(StorageFullError, match="no room"):
                    backup.restore(Settings(data_dir=disk, min_free_disk_bytes=0), tmp_path / "b.tar")
                assert list(disk.iterdir()) == []


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "thaw-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_damaged_database_is_said_and_not_backed_up(services: Services, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged" / "thaw.db"
    damaged.parent.mkdir()
    snapshot.copy(services.db, damaged)
    content = damaged.read_bytes()
    for changed in (b"x" * len(content), content[:4096] + b"x" * (len(content) - 4096), content[: len(content) // 2]):
        damaged.write_bytes(changed)
        with pytest.raises(PlatformError, match=r"database is damaged: .* Restore an older backup") as raised:
            backup.take(Settings(data_dir=damaged.parent), tmp_path / "b.tar")
        assert raised.value.work_code == "corrupt_database"
        assert not (tmp_path / "b.tar").exists()


def test_only_sqlite_in_a_folder_that_a_service_has_used_is_backed_up(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--data-dir"):
        backup.take(Settings(data_dir=tmp_path), tmp_path / "b.tar")
    elsewhere = Settings(data_dir=tmp_path, database_url="postgresql+psycopg://thaw@nowhere.invalid/thaw")
    with pytest.raises(ConflictError, match="pg_dump"):
        backup.take(elsewhere, tmp_path / "b.tar")
    Database(f"sqlite:///{tmp_path / 'thaw.db'}").close()
    (tmp_path / "thaw.db").touch()
    with pytest.raises(ConflictError, match="revision None"):
        backup.take(Settings(data_dir=tmp_path), tmp_path / "b.tar")


# === Completeness ===


def test_every_column_that_holds_blobs_is_known(world: Any, services: Services) -> None:
    finished_job(world)
    claim = world.claim()
    world.succeed(claim)
    with_blobs = set()
    with services.db.read() as session:
        for table in METADATA.sorted_tables:
            for column in table.columns:
                if "JSON" in str(column.type):
                    values = session.scalars(select(column)).all()
                    with_blobs |= {str(column)} if any(_has_blobs(value) for value in values) else set()
    assert with_blobs <= {f"{column.class_.__tablename__}.{column.key}" for column in blobs.COLUMNS}
    assert len(with_blobs) >= 5


def _has_blobs(value: JsonObject | JsonList | object) -> bool:
    if isinstance(value, dict):
        return {"sha256", "bytes"} <= value.keys() or any(map(_has_blobs, value.values()))
    return isinstance(value, list) and any(map(_has_blobs, value))
