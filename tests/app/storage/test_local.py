"""The artifact store in a folder, beyond what every store promises: links, and all of a blob or nothing."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.domain.artifacts import Blob
from app.domain.errors import PlatformError, ServiceUnavailableError, StorageFullError
from app.storage.artifacts import CHUNK_BYTES
from app.storage.local import LocalArtifacts

REPOSITORY = Path(__file__).resolve().parents[3]
HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "artifacts")


def test_a_blob_lies_in_a_folder_of_its_first_letters(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    assert store.path_of(HELLO).relative_to(store.path_of(HELLO).parents[3]) == Path("sha256") / "2c" / "f2" / HELLO


def test_a_folder_that_is_gone_is_told_of(store: LocalArtifacts) -> None:
    shutil.rmtree(_temporary_folder(store).parent)
    with pytest.raises(ServiceUnavailableError, match="No such file"):
        store.probe()


def test_the_same_bytes_are_stored_once(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    _put(store, b"hello")
    assert [blob.sha256 for blob in store.list_blobs()] == [HELLO]
    assert _temporary(store) == []


def test_the_same_bytes_mend_a_damaged_blob_of_the_same_size(store: LocalArtifacts, tmp_path: Path) -> None:
    _put(store, b"hello")
    _damage(store, b"hellO")
    _put(store, b"hello")
    assert b"".join(store.read(HELLO)) == b"hello"
    store.fetch(HELLO, tmp_path / "destination")


def test_who_reads_or_has_linked_a_blob_keeps_it_when_it_comes_again(store: LocalArtifacts, tmp_path: Path) -> None:
    whole = b"a" * CHUNK_BYTES + b"b"
    blob = _put(store, whole)
    store.fetch(blob.sha256, tmp_path / "linked")
    chunks = store.read(blob.sha256)
    first = next(chunks)
    _put(store, whole)
    assert first + b"".join(chunks) == whole
    assert (tmp_path / "linked").read_bytes() == whole


def test_the_age_of_a_blob_counts_from_its_last_commit(store: LocalArtifacts) -> None:
    before = time.time() - 1
    with store.writer(max_bytes=10) as writer:
        os.utime(_temporary(store)[0], (0, 0))  # an empty one: nothing that is written later makes it younger
        writer.commit()
    (blob,) = store.list_blobs()
    assert blob.modified_at > before


def test_blobs_are_read_only(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    assert store.path_of(HELLO).stat().st_mode & 0o777 == 0o440


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


def test_a_blob_that_is_deleted_before_its_first_byte_is_read_is_missing(store: LocalArtifacts) -> None:
    _put(store, b"hello")
    chunks = store.read(HELLO)
    store.remove(HELLO)
    with pytest.raises(PlatformError, match="not in the store"):
        next(chunks)


# === Files ===


def test_a_file_is_fetched_without_a_copy(store: LocalArtifacts, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"hello")
    assert store.put_file(source) == Blob(sha256=HELLO, bytes=5)
    store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"
    assert destination.stat().st_ino == store.path_of(HELLO).stat().st_ino  # no second copy of 5 GB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "destination", "source"]


def test_a_fetch_copies_where_it_cannot_link(
    store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(store, b"hello")
    monkeypatch.setattr(os, "link", _failing(errno.EXDEV))
    destination = tmp_path / "destination"
    store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"
    assert destination.stat().st_ino != store.path_of(HELLO).stat().st_ino


# === A full disk ===


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


TROUBLES = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize("number", TROUBLES)
def test_a_disk_that_takes_no_bytes_does_not_answer(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(number))
    with pytest.raises(ServiceUnavailableError, match="cannot be used: error"):
        _put(store, b"hello")
    assert _temporary(store) == []


# === Bytes that cannot be read ===


@pytest.mark.parametrize("number", TROUBLES[1:])
def test_a_disk_that_gives_no_bytes_does_not_answer(
    store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _put(store, b"hello")
    chunks = store.read(HELLO)
    monkeypatch.setattr(Path, "open", _failing(number))
    for read in (lambda: store.fetch(HELLO, tmp_path / "x"), lambda: next(chunks), lambda: store.put_file(tmp_path)):
        with pytest.raises(ServiceUnavailableError, match="cannot be used: error"):
            read()
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]


def test_a_bad_sector_is_a_damaged_blob(store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(store, b"hello")
    chunks = store.read(HELLO)
    monkeypatch.setattr(Path, "open", _failing(errno.EIO))
    for read in (lambda: store.fetch(HELLO, tmp_path / "x"), lambda: next(chunks)):
        with pytest.raises(PlatformError, match="the disk cannot read it") as caught:
            read()
        assert caught.value.work_code == "corrupt_artifact"


def test_a_disk_that_says_nothing_at_all_is_no_bad_sector(
    store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(store, b"hello")
    monkeypatch.setattr(Path, "open", _failing(errno.EIO))
    monkeypatch.setattr(shutil, "disk_usage", _failing(errno.EIO))
    with pytest.raises(ServiceUnavailableError):
        store.fetch(HELLO, tmp_path / "x")


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


def _damage(store: LocalArtifacts, content: bytes) -> None:
    path = store.path_of(HELLO)
    path.chmod(0o640)
    path.write_bytes(content)


def _temporary_folder(store: LocalArtifacts) -> Path:
    return store.path_of(HELLO).parents[3] / "tmp"


def _temporary(store: LocalArtifacts) -> list[Path]:
    return list(_temporary_folder(store).iterdir())
