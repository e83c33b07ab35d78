"""The artifact store in a folder: all of a blob or nothing, whatever goes wrong."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.domain.artifacts import Blob
from app.domain.errors import PlatformError, StorageFullError, TooLargeError
from app.storage.artifacts import CHUNK_BYTES
from app.storage.local import LocalArtifacts

REPOSITORY = Path(__file__).resolve().parents[3]
HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "artifacts")


def test_what_is_written_can_be_read_under_its_digest(store: LocalArtifacts) -> None:
    blob = _put(store, b"hel", b"lo")
    assert blob == Blob(sha256=HELLO, bytes=5)
    assert store.exists(HELLO)
    assert b"".join(store.read(HELLO)) == b"hello"
    assert store.path_of(HELLO).relative_to(store.path_of(HELLO).parents[3]) == Path("sha256") / "2c" / "f2" / HELLO


def test_an_empty_blob_is_a_blob(store: LocalArtifacts) -> None:
    blob = _put(store)
    assert blob.bytes == 0
    assert list(store.read(blob.sha256)) == []


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, None, b"hello"), (1, 3, b"el"), (4, None, b"o"), (5, None, b""), (0, 0, b""), (3, 99, b"lo")],
)
def test_a_range_can_be_read(store: LocalArtifacts, start: int, stop: int | None, expected: bytes) -> None:
    _put(store, b"hello")
    assert b"".join(store.read(HELLO, start=start, stop=stop)) == expected


def test_large_blobs_are_read_in_chunks(store: LocalArtifacts) -> None:
    content = os.urandom(2 * CHUNK_BYTES + 17)
    chunks = list(store.read(_put(store, content).sha256, start=1))
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 16]
    assert b"".join(chunks) == content[1:]


def test_the_same_bytes_are_stored_once(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    before = store.path_of(HELLO).stat().st_ino
    _put(store, b"hello")
    assert store.path_of(HELLO).stat().st_ino == before
    assert _temporary(store) == []


def test_many_that_write_the_same_bytes_at_once_all_succeed(store: LocalArtifacts) -> None:
    with ThreadPoolExecutor(8) as threads:
        blobs = list(threads.map(lambda _: _put(store, b"hello"), range(32)))
    assert set(blobs) == {Blob(sha256=HELLO, bytes=5)}
    assert _temporary(store) == []


def test_a_blob_that_was_cut_short_by_a_broken_disk_is_replaced(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    path = store.path_of(HELLO)
    path.chmod(0o640)
    path.write_bytes(b"he")
    _put(store, b"hello")
    assert path.read_bytes() == b"hello"


def test_blobs_are_read_only(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    assert store.path_of(HELLO).stat().st_mode & 0o777 == 0o440


def test_a_writer_that_is_left_leaves_nothing(store: LocalArtifacts) -> None:
    with store.writer(max_bytes=10) as writer:
        writer.write(b"hello")
        assert len(_temporary(store)) == 1
    assert _temporary(store) == []
    assert not store.exists(HELLO)


def test_a_writer_that_fails_leaves_nothing(store: LocalArtifacts) -> None:
    with pytest.raises(TooLargeError, match="More than the 10 bytes"), store.writer(max_bytes=10) as writer:
        writer.write(b"x" * 11)
    assert _temporary(store) == []


def test_exactly_as_much_as_is_allowed_is_allowed(store: LocalArtifacts) -> None:
    with store.writer(max_bytes=5) as writer:
        writer.write(b"hello")
        assert writer.commit().bytes == 5


def test_a_writer_that_is_killed_leaves_no_blob_and_its_rest_is_removed_later(store: LocalArtifacts) -> None:
    folder = _temporary_folder(store).parent
    script = (
        "import os, sys; from pathlib import Path; from app.storage.local import LocalArtifacts\n"
        "writer = LocalArtifacts(Path(sys.argv[1])).writer(max_bytes=10); writer.write(b'hello'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], cwd=REPOSITORY, check=False)
    assert done.returncode == 9
    (rest,) = _temporary(store)
    assert not store.exists(HELLO)
    LocalArtifacts(folder)
    assert _temporary(store) == [rest]  # it may be somebody's who still writes
    yesterday = time.time() - 86_401
    os.utime(rest, (yesterday, yesterday))
    LocalArtifacts(folder)
    assert _temporary(store) == []


# === Files ===


def test_a_file_is_stored_and_fetched_again(store: LocalArtifacts, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"hello")
    assert store.put_file(source) == Blob(sha256=HELLO, bytes=5)
    store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"
    assert destination.stat().st_ino == store.path_of(HELLO).stat().st_ino  # no second copy of 5 GB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "destination", "source"]


def test_a_fetch_replaces_what_is_there(store: LocalArtifacts, tmp_path: Path) -> None:
    _put(store, b"hello")
    destination = tmp_path / "destination"
    destination.write_bytes(b"old")
    store.fetch(HELLO, destination)
    store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"


def test_a_fetch_copies_where_it_cannot_link(
    store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(store, b"hello")
    monkeypatch.setattr(os, "link", _failing(errno.EXDEV))
    destination = tmp_path / "destination"
    store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"
    assert destination.stat().st_ino != store.path_of(HELLO).stat().st_ino


def test_damaged_bytes_are_never_handed_out_as_a_file(store: LocalArtifacts, tmp_path: Path) -> None:
    _put(store, b"hello")
    path = store.path_of(HELLO)
    path.chmod(0o640)
    path.write_bytes(b"hellO")
    with pytest.raises(PlatformError, match="damaged") as caught:
        store.fetch(HELLO, tmp_path / "destination")
    assert caught.value.work_code == "corrupt_artifact"
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]


def test_what_is_not_there_is_told_at_once(store: LocalArtifacts, tmp_path: Path) -> None:
    for call in (lambda: store.read("0" * 64), lambda: store.fetch("0" * 64, tmp_path / "x")):
        with pytest.raises(PlatformError, match="not in the store") as caught:
            call()
        assert caught.value.work_code == "missing_artifact"
    assert not store.exists("0" * 64)


# === A full disk ===


def test_no_upload_begins_when_there_is_too_little_room(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "artifacts", min_free_bytes=2**62)
    with pytest.raises(StorageFullError, match="kept free"):
        store.writer(max_bytes=10)
    assert store.free_bytes() > 0


def test_an_upload_ends_when_room_runs_short_on_the_way(store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.writer(max_bytes=2**30) as writer:
        monkeypatch.setattr(store, "_min_free_bytes", 2**62)
        writer.write(bytes(2 * CHUNK_BYTES))
        with pytest.raises(StorageFullError):
            writer.write(bytes(14 * CHUNK_BYTES))
    assert _temporary(store) == []


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_and_is_told(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    def fill(writer: Any) -> None:
        if step == "write":
            monkeypatch.setattr(writer, "_file", _Full(writer._file, number))
        elif step == "fsync":
            monkeypatch.setattr(os, "fsync", _failing(number))
        else:
            monkeypatch.setattr(Path, "replace", _failing(number))
        writer.write(b"hello")
        writer.commit()

    with pytest.raises(StorageFullError, match="no room left"), store.writer(max_bytes=10) as writer:
        fill(writer)
    monkeypatch.undo()
    assert _temporary(store) == []
    assert not store.exists(HELLO)
    assert _put(store, b"hello").sha256 == HELLO


def test_other_troubles_of_the_disk_are_not_taken_for_a_full_one(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(OSError, match="error"):
        _put(store, b"hello")
    assert _temporary(store) == []


class _Full:
    """A file on a disk that is full: writing fails, closing works."""

    def __init__(self, file: Any, number: int) -> None:
        self._file, self._number = file, number

    def write(self, _chunk: bytes) -> None:
        raise OSError(self._number, "full")

    def close(self) -> None:
        self._file.close()


def _failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, "error")

    return fail


def _put(store: LocalArtifacts, *chunks: bytes) -> Blob:
    with store.writer(max_bytes=10 * CHUNK_BYTES) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()


def _temporary_folder(store: LocalArtifacts) -> Path:
    return store.path_of(HELLO).parents[3] / "tmp"


def _temporary(store: LocalArtifacts) -> list[Path]:
    return list(_temporary_folder(store).iterdir())
