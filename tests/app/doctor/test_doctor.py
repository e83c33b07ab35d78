"""What `thaw doctor` finds."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.doctor import Finding, examine, keeping, working
from app.doctor.finding import ok
from app.services import context, workers
from app.services.context import Services
from app.settings import Settings
from app.storage import inspection
from app.storage.database import Database, upgrade
from tests.app.doctor.conftest import CPU

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


# === The whole table, on real parts ===


@pytest.fixture
def sound(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Services:
    """An installation in which a worker lives, on a disk that stays."""
    monkeypatch.setattr(keeping, "_kind_of", lambda _: "ext4")
    monkeypatch.setattr(working, "count_gpus", lambda: 0)
    services = context.build(settings)
    upgrade(services.db)
    workers.announce(services, worker="w1", capabilities=CPU)
    services.db.close()
    return services


def test_a_sound_installation_has_no_problem(sound: Services) -> None:
    found = by_name(examine(sound.settings))
    assert {name: each.found for name, each in found.items() if each.verdict == "problem"} == {}
    assert set(found) == {
        *("database", "file system", "room", "store", "API key", "broker", "broker policy", "broker persistence"),
        *("database version", "durability", "writing", "artifacts", "clock", "workers", "queues", "devices"),
    }
    assert all(f"| {name} |" in PAGE for name in found)
    assert found["durability"].found == "journal_mode wal"
    assert found["broker policy"].found.startswith("valkey 9.")
    assert found["broker persistence"].verdict == "ok"
    assert found["workers"].found == "1 live: w1 (cpu, prepare)"
    assert list((sound.settings.artifacts_dir() / "sha256").rglob("*/*/*")) == [], "the probe is gone"


def test_a_folder_that_no_service_has_used_is_left_as_it_is(tmp_path: Path) -> None:
    (finding,) = examine(Settings(data_dir=tmp_path))
    assert (finding.check, finding.verdict) == ("database", "problem")
    assert "thaw up" in finding.advice
    assert list(tmp_path.iterdir()) == []


def test_each_check_stands_alone(sound: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Services) -> Finding:
        reason = "postgresql://thaw:hunter2@host"
        raise OperationalError(reason, {}, Exception(reason))

    monkeypatch.setattr("app.doctor.examination.OF_DATABASE", (("clock", fail), ("queues", working.queues)))
    found = by_name(examine(sound.settings))
    assert found["clock"].verdict == "problem"
    assert "hunter2" not in str(found)
    assert found["queues"].verdict == "ok"


def test_a_broker_that_is_away_is_a_problem_and_is_asked_nothing_more(sound: Services, tmp_path: Path) -> None:
    away = sound.settings.model_copy(update={"redis_url": SecretStr(f"redis+socket://{tmp_path / 'nothing'}")})
    found = by_name(examine(away))
    assert found["broker"].verdict == "problem"
    assert "broker policy" not in found
    assert found["database"].verdict == "ok"


def test_a_database_without_tables_is_a_problem(settings: Settings) -> None:
    settings.data_dir.mkdir()
    database = Database(f"sqlite:///{settings.data_dir / 'thaw.db'}")
    with database.read() as session:
        session.connection()
    database.close()
    found = by_name(examine(settings))
    assert found["database"].verdict == "problem"
    assert "workers" not in found


# === Keeping ===


@pytest.mark.parametrize(
    ("kind", "with_sqlite", "with_postgresql"),
    [("nfs4", "problem", "warning"), ("fuse.sshfs", "problem", "warning"), ("overlay", "warning", "warning"),
     ("tmpfs", "warning", "warning"), ("ext4", "ok", "ok"), ("", "ok", "ok")],
)  # fmt: skip
@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_file_systems_of_other_machines_are_no_place_for_sqlite(
    services: Services, monkeypatch: pytest.MonkeyPatch, kind: str, with_sqlite: str, with_postgresql: str
) -> None:
    monkeypatch.setattr(keeping, "_kind_of", lambda _: kind)
    for url, verdict in ((None, with_sqlite), (SecretStr("postgresql://host/thaw"), with_postgresql)):
        settings = services.settings.model_copy(update={"database_url": url})
        assert keeping.file_system(replace(services, settings=settings)).verdict == verdict


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_the_folder_that_sqlites_file_is_really_in_is_judged(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, local = tmp_path / "remote", tmp_path / "local"
    for folder in (remote, local):
        folder.mkdir()
    (remote / "thaw.db").touch()
    (local / "link.db").symlink_to(remote / "thaw.db")
    monkeypatch.setattr(keeping, "_kind_of", lambda folder: "nfs4" if folder == remote.resolve() else "ext4")

    def found(data: Path, database: str | None) -> Finding:
        url = SecretStr(database) if database else None
        settings = services.settings.model_copy(update={"data_dir": data, "database_url": url})
        return keeping.file_system(replace(services, settings=settings))

    for data, url in (
        (remote, None),
        (remote, f"sqlite:///{remote / 'thaw.db'}"),
        (local, f"sqlite:///{remote / 'thaw.db'}"),
        (local, f"sqlite:///{local / 'link.db'}"),
    ):
        assert found(data, url).verdict == "problem", (data, url)
        assert f"{remote} is on nfs4" in found(data, url).found
        assert str(remote) in found(data, url).advice
    assert found(local, f"sqlite:///{local / 'thaw.db'}") == ok("file system", f"{local} is on ext4")
    elsewhere = found(remote, f"sqlite:///{local / 'thaw.db'}")
    assert (elsewhere.verdict, "artifacts" in elsewhere.advice) == ("warning", True)


def test_the_nearest_and_newest_mount_says_what_the_file_system_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [("/", "overlay"), (str(tmp_path), "ext4"), (str(tmp_path), "NFS4"), ("/nowhere", "x")]
    mounts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in points]
    monkeypatch.setattr(keeping.psutil, "disk_partitions", lambda **_: mounts)
    assert keeping._kind_of(tmp_path / "data") == "nfs4"
    assert keeping._kind_of(tmp_path.parent) == "overlay"


def test_little_room_is_told_of(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = services.settings.min_free_disk_bytes
    for free, verdict in ((kept - 1, "problem"), (2 * kept, "warning"), (100 * kept, "ok")):
        disk = SimpleNamespace(free=free, total=200 * kept)
        monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _, disk=disk: disk)
        assert keeping.room(services).verdict == verdict
    full = SimpleNamespace(f_files=10_000, f_favail=5)
    monkeypatch.setattr(keeping.os, "statvfs", lambda _: full)
    assert keeping.room(services).verdict == "warning"
    assert "inodes" in keeping.room(services).found


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_sqlites_own_disk_is_judged_too(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, elsewhere = services.settings.data_dir.resolve(), (tmp_path / "elsewhere").resolve()
    elsewhere.mkdir()
    url = SecretStr(f"sqlite:///{elsewhere / 'thaw.db'}")
    services = replace(services, settings=services.settings.model_copy(update={"database_url": url}))
    free = dict.fromkeys((data, elsewhere), 2**40)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path], total=2**41))
    assert keeping.room(services).verdict == "ok"
    for full in free:
        with monkeypatch.context() as patched:
            patched.setitem(free, full, services.settings.min_free_disk_bytes - 1)
            found = keeping.room(services)
        assert (found.verdict, found.found.endswith(f"GiB free in {full}")) == ("problem", True)


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
def test_a_server_is_made_to_write_and_one_that_cannot_is_a_problem(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> str:
        with services.db.read() as session:
            return str(session.execute(text("SELECT pg_current_wal_insert_lsn()")).scalar_one())

    before = written()
    assert keeping.writing(services).verdict == "ok"
    assert written() != before
    raising = "DO $$ BEGIN RAISE EXCEPTION 'hunter2' USING ERRCODE = 'disk_full'; END $$"
    monkeypatch.setattr(inspection, "_TRY", raising)
    found = keeping.writing(services)
    assert (found.verdict, found.found) == ("problem", "the database refuses to write: DiskFull")


def test_a_store_that_lost_its_folders_is_a_problem(services: Services) -> None:
    (services.settings.artifacts_dir() / "tmp").rmdir()
    assert keeping.store(services).verdict == "problem"


def test_a_key_that_others_can_read_is_a_problem(services: Services) -> None:
    assert keeping.key_file(services).verdict == "ok"
    path = services.settings.api_key_file()
    path.write_text("thaw_secret")
    path.chmod(0o640)
    assert keeping.key_file(services).verdict == "problem"
    assert "thaw_secret" not in str(keeping.key_file(services))
    path.chmod(0o600)
    assert keeping.key_file(services).verdict == "ok"


def test_both_databases_say_how_they_keep_things(services: Services) -> None:
    """The PostgreSQL of the tests runs without fsync."""
    found = keeping.durability(services)
    of_sqlite = services.db.engine.dialect.name == "sqlite"
    assert found.verdict == ("ok" if of_sqlite else "problem")
    assert ("journal_mode wal" if of_sqlite else "fsync off") in found.found
    assert keeping.writing(services).verdict == "ok"


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_an_sqlite_with_the_rare_fault_is_a_warning(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = services.db.engine.dialect
    for version, verdict in (((3, 40, 1), "warning"), ((3, 44, 6), "ok"), ((3, 51, 2), "warning"), ((3, 51, 3), "ok")):
        monkeypatch.setattr(type(dialect), "server_version_info", version, raising=False)
        monkeypatch.setattr(dialect, "server_version_info", version, raising=False)
        assert keeping.database_version(services).verdict == verdict, version
