"""What is restored from: whole archives, into empty folders, or nothing."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import app.backup.taking
from app import backup
from app.domain.errors import ConflictError, InvalidRequestError, PlatformError
from app.services import context
from app.settings import Settings
from app.standalone import folder
from tests.app.backup.conftest import intact, members


@pytest.fixture
def archive(settings: Settings, tmp_path: Path, world: Any) -> Path:
    for number in range(3):
        world.file(f"file {number}")
    backup.take(settings, tmp_path / "b.tar")
    return tmp_path / "b.tar"


def refused(tmp_path: Path, path: Path, match: str) -> None:
    """It says why, and the folder is as empty as before."""
    target = tmp_path / "again"
    with pytest.raises(InvalidRequestError, match=match):
        backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), path)
    assert list(target.iterdir()) == []


def pack(path: Path, content: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_an_archive_that_changed_since_is_refused(archive: Path, tmp_path: Path) -> None:
    whole = members(archive)
    names = [name for name, _ in whole]
    assert [names[0], *names[-2:]] == ["thaw-backup.json", "thaw.db", "end.json"]
    for index, match in ((0, "cannot be read"), (1, "blobs were damaged"), (-2, "database was damaged"), (-1, "read")):
        changed = [*whole]
        name, data = changed[index]
        changed[index] = (name, data[:-1] + bytes([data[-1] ^ 1]))
        refused(tmp_path, pack(tmp_path / "c.tar", changed), match)
        left_out = [each for each in whole if each[0] != name]
        refused(tmp_path, pack(tmp_path / "c.tar", left_out), "whole one|missing|damaged")


def test_an_archive_that_was_cut_is_refused_wherever(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        (tmp_path / "c.tar").write_bytes(content[: int(len(content) * share)])
        refused(tmp_path, tmp_path / "c.tar", "archive|whole one")


def test_a_backup_of_a_damaged_database_is_refused(archive: Path, tmp_path: Path) -> None:
    content = dict(members(archive))
    damaged = content["thaw.db"][:4096] + b"x" * (len(content["thaw.db"]) - 4096)
    old, new = (hashlib.sha256(each).hexdigest().encode() for each in (content["thaw.db"], damaged))
    content |= {"thaw.db": damaged, "end.json": content["end.json"].replace(old, new)}
    pack(tmp_path / "c.tar", list(content.items()))
    with pytest.raises(PlatformError, match="database is damaged"):
        backup.restore(Settings(data_dir=tmp_path / "again", min_free_disk_bytes=0), tmp_path / "c.tar")
    assert list((tmp_path / "again").iterdir()) == []


def test_strange_archives_are_refused(archive: Path, tmp_path: Path) -> None:
    head, *rest = members(archive)
    for name in ("../evil", "/evil", "blobs/../../evil", "blobs/short", "notes.txt"):
        refused(tmp_path, pack(tmp_path / "c.tar", [head, (name, b"evil"), *rest]), "no backup of Thaw")
    later = (head[0], head[1].replace(b'"format":1', b'"format":2'))
    refused(tmp_path, pack(tmp_path / "c.tar", [later, *rest]), "format 2")
    *others, end = rest
    unknown = (end[0], end[1].replace(b'"revision":"', b'"revision":"9'))
    refused(tmp_path, pack(tmp_path / "c.tar", [head, *others, unknown]), "later version")
    with tarfile.open(tmp_path / "c.tar", "w") as made:
        link = tarfile.TarInfo(head[0])
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    refused(tmp_path, tmp_path / "c.tar", "no backup of Thaw")


def test_a_folder_with_anything_in_it_is_left_alone(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "again"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"mine\.txt"):
        backup.restore(Settings(data_dir=target), archive)
    assert [each.name for each in target.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("elsewhere", "match"),
    [
        ({"artifacts_url": "s3://thaw/artifacts"}, "THAW_ARTIFACTS_URL names a bucket"),
        ({"database_url": "postgresql+psycopg://thaw:hunter2@host/thaw"}, "restored with pg_restore"),
        ({"database_url": "sqlite:////srv/other.db"}, "names /srv/other.db. Unset it"),
        ({"database_url": "sqlite://"}, "names none that is kept"),
    ],
)
def test_what_the_service_would_not_open_is_not_restored(
    archive: Path, tmp_path: Path, elsewhere: dict[str, str], match: str
) -> None:
    target = tmp_path / "again"
    with pytest.raises(ConflictError, match=match) as raised:
        backup.restore(Settings(data_dir=target, min_free_disk_bytes=0, **elsewhere), archive)
    assert "hunter2" not in str(raised.value)
    assert not target.exists()


def test_a_url_that_leads_to_the_restored_database_is_no_other(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "again")
    url = SecretStr(f"sqlite:///{tmp_path / 'link' / 'thaw.db'}")
    settings = Settings(data_dir=tmp_path / "again", database_url=url, min_free_disk_bytes=0)
    assert backup.restore(settings, archive).blobs == 3
    services = context.build(settings)
    assert intact(services) == 3
    services.db.close()


def test_a_folder_on_which_a_service_starts_is_left_alone(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "again"
    (target / "run").mkdir(parents=True)
    with folder.held(target / "run"), pytest.raises(ConflictError, match="already runs"):
        backup.restore(Settings(data_dir=target), archive)
    assert not (target / "thaw.db").exists()


def test_what_a_killed_restore_left_is_cleared_by_the_next_one(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "again"
    for name in ("run", "artifacts", "restore.partial"):
        (target / name).mkdir(parents=True)
    (target / "artifacts" / "half").write_text("half")
    (target / "restore.partial" / "thaw.db").write_text("half")
    assert backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), archive).blobs == 3
    assert {each.name for each in target.iterdir()} == {"artifacts", "run", "thaw.db"}
    assert not (target / "artifacts" / "half").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("call", [1, 2])
def test_a_restore_that_is_ended_while_it_publishes_leaves_an_empty_folder(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int
) -> None:
    target, calls = tmp_path / "again", []

    def sync(folder: Path) -> None:
        calls.append(sorted(path.name for path in folder.iterdir()))
        if len(calls) == call:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(app.backup.restoring, "sync_folder", sync)
        with pytest.raises(type(error)):
            backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), archive)
    assert "artifacts" in calls[-1], "it was half published, or whole"
    assert ("thaw.db" in calls[-1]) == (call == 2)
    assert list(target.iterdir()) == []
    assert backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), archive).blobs == 3


ITS_FILES = {"api-key": "its key", "thaw.db": "its rows", "artifacts/sha256/blob": "its blob"}


def start_api(target: Path) -> None:
    """As `python -m app.main` would, which does not look whether the folder is held."""
    for name, content in ITS_FILES.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(content)


def started_when(wanted: Any, original: Any) -> Any:
    """`original`, with an API that is started on the target when it is called on what is wanted."""

    def call(path: Path, *arguments: Any, **options: Any) -> Any:
        if wanted(path, *arguments):
            start_api(next(each for each in (path, *path.parents) if each.name == "again"))
        return original(path, *arguments, **options)

    return call


@pytest.mark.parametrize("damaged", [False, True])
def test_what_an_api_made_that_was_started_meanwhile_is_left_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, damaged: bool
) -> None:
    if damaged:
        archive.write_bytes(archive.read_bytes()[:-20_000])
    target = tmp_path / "again"
    monkeypatch.setattr(Path, "mkdir", started_when(lambda path, *_: path.name == "restore.partial", Path.mkdir))
    with pytest.raises(InvalidRequestError if damaged else ConflictError, match="backup"):
        backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), archive)
    assert {each.name for each in target.iterdir()} == {"api-key", "thaw.db", "artifacts"}
    assert {name: (target / name).read_text() for name in ITS_FILES} == ITS_FILES


@pytest.mark.parametrize("moment", ["rename", "hardlink_to"])
def test_an_api_that_is_started_at_the_last_moment_keeps_what_it_made(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    target = tmp_path / "again"
    # Blobs are put under their names by the same calls, long before.
    last = {target / "restore.partial" / "artifacts", target / "thaw.db"}
    monkeypatch.setattr(Path, moment, started_when(lambda path, *_: path in last, getattr(Path, moment)))
    with pytest.raises(ConflictError, match="while the backup was unpacked"):
        backup.restore(Settings(data_dir=target, min_free_disk_bytes=0), archive)
    assert {each.name for each in target.iterdir()} == {"api-key", "thaw.db", "artifacts"}
    assert {name: (target / name).read_text() for name in ITS_FILES} == ITS_FILES


def test_artifacts_beside_a_killed_restore_that_had_not_come_to_them_are_left_alone(
    archive: Path, tmp_path: Path
) -> None:
    target = tmp_path / "again"
    for name in ("artifacts", "restore.partial/artifacts"):
        (target / name).mkdir(parents=True)
    with pytest.raises(ConflictError, match="not empty: it has artifacts"):
        backup.restore(Settings(data_dir=target), archive)
    assert (target / "artifacts").is_dir()
