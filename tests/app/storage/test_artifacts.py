"""What every artifact store promises, in a folder and in a bucket of a real S3 server."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.domain.artifacts import Blob
from app.domain.errors import PlatformError, StorageFullError, TooLargeError
from app.settings import Settings
from app.storage.artifacts import CHUNK_BYTES, ArtifactStore
from app.storage.local import LocalArtifacts
from app.storage.s3 import PART_BYTES, S3Artifacts

HELLO = hashlib.sha256(b"hello").hexdigest()
FEW_SECONDS = 3.0


class Place:
    """A store, and what lies in it."""

    def __init__(self, folder: Path, bucket: Any | None) -> None:
        self.folder, self.bucket = folder, bucket
        self.store = self.open()

    def open(self, **changed: Any) -> Any:
        if self.bucket is None:
            return LocalArtifacts(self.folder / "store", min_free_bytes=changed.get("min_free_disk_bytes", 0))
        settings = Settings(data_dir=self.folder / "store", **self.bucket.settings, **changed)
        return S3Artifacts(settings, patience_seconds=FEW_SECONDS)

    def blobs(self) -> list[str]:
        """The names of all blobs, as they stand in the store."""
        if self.bucket:
            return [Path(key).name for key in self.bucket.keys()]  # noqa: SIM118 (no dictionary)
        return [path.name for path in (self.folder / "store" / "sha256").rglob("*") if path.is_file()]

    def left(self) -> list[str]:
        """What writers have left behind that is no blob."""
        spool = self.folder / "store" / ("spool" if self.bucket else "tmp")
        return [path.name for path in spool.iterdir()] + (self.bucket.uploads() if self.bucket else [])

    def damage(self, sha256: str, content: bytes) -> None:
        """Put other bytes in the place of a blob's."""
        if self.bucket:
            self.bucket.put(f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}", content)
        else:
            path = self.store.path_of(sha256)
            path.chmod(0o640)
            path.write_bytes(content)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.getfixturevalue("bucket") if request.param == "bucket" else None)


def test_what_is_written_can_be_read_under_its_digest(place: Place) -> None:
    blob = _put(place.store, b"hel", b"lo")
    assert blob == Blob(sha256=HELLO, bytes=5)
    assert place.store.exists(HELLO)
    assert b"".join(place.store.read(HELLO)) == b"hello"
    assert place.blobs() == [HELLO]


def test_all_blobs_are_listed_with_their_age(place: Place) -> None:
    begun = time.time()
    blobs = {_put(place.store, content).sha256 for content in (b"hello", b"", b"x" * 1000)}
    listed = {blob.sha256: blob.modified_at for blob in place.store.list_blobs()}
    assert set(listed) == blobs
    assert all(begun - 2 < modified_at < time.time() + 2 for modified_at in listed.values()), "S3 tells whole seconds"


def test_only_what_is_old_enough_is_removed(place: Place) -> None:
    _put(place.store, b"hello")
    assert not place.store.remove_older(HELLO, than=time.time() - 60)
    assert place.store.exists(HELLO)
    assert place.store.remove_older(HELLO, than=time.time() + 60)
    assert not place.store.remove_older(HELLO, than=time.time() + 60), "it is gone"
    assert place.blobs() == []


@pytest.mark.parametrize(("grace_seconds", "found"), [(86_400.0, b"jello"), (1e-6, b"hello")])
def test_what_a_bucket_may_lose_soon_is_written_anew(
    bucket: Any, tmp_path: Path, grace_seconds: float, found: bytes
) -> None:
    place = Place(tmp_path, bucket)
    place.damage(HELLO, b"jello")  # of the same size, so that one sees who has written it
    _put(place.open(orphan_grace_seconds=grace_seconds), b"hello")
    assert b"".join(place.store.read(HELLO)) == found


def test_another_process_reads_what_one_has_written(place: Place) -> None:
    _put(place.store, b"hello")
    assert b"".join(place.open().read(HELLO)) == b"hello"


def test_an_empty_blob_is_a_blob(place: Place, tmp_path: Path) -> None:
    blob = _put(place.store)
    assert blob.bytes == 0
    assert list(place.store.read(blob.sha256)) == []
    place.store.fetch(blob.sha256, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, None, b"hello"), (1, 3, b"el"), (4, None, b"o"), (5, None, b""), (0, 0, b""), (3, 99, b"lo")],
)
def test_a_range_can_be_read(place: Place, start: int, stop: int | None, expected: bytes) -> None:
    _put(place.store, b"hello")
    assert b"".join(place.store.read(HELLO, start=start, stop=stop)) == expected


@pytest.mark.parametrize("size", [2 * CHUNK_BYTES + 17, PART_BYTES, 2 * PART_BYTES + 5])
def test_large_blobs_are_read_in_chunks_from_anywhere(place: Place, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    blob = _put(place.store, *(content[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)))
    chunks = list(place.store.read(blob.sha256, start=1))
    assert max(len(chunk) for chunk in chunks) == CHUNK_BYTES
    assert b"".join(chunks) == content[1:]
    assert b"".join(place.store.read(blob.sha256, start=size - 7, stop=size - 2)) == content[-7:-2]
    place.store.fetch(blob.sha256, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    assert place.left() == []


def test_many_that_write_the_same_bytes_at_once_all_succeed(place: Place) -> None:
    with ThreadPoolExecutor(8) as threads:
        blobs = list(threads.map(lambda _: _put(place.store, b"hello"), range(16)))
    assert set(blobs) == {Blob(sha256=HELLO, bytes=5)}
    assert (place.left(), place.blobs()) == ([], [HELLO])


def test_a_blob_that_was_cut_short_is_replaced(place: Place) -> None:
    _put(place.store, b"hello")
    place.damage(HELLO, b"he")
    _put(place.store, b"hello")
    assert b"".join(place.store.read(HELLO)) == b"hello"


def test_a_writer_that_is_left_leaves_nothing(place: Place) -> None:
    with place.store.writer(max_bytes=10) as writer:
        writer.write(b"hello")
        assert len(place.left()) == 1
    assert (place.left(), place.blobs()) == ([], [])


def test_a_writer_that_fails_leaves_nothing(place: Place) -> None:
    with pytest.raises(TooLargeError, match="More than the 10 bytes"), place.store.writer(max_bytes=10) as writer:
        writer.write(b"x" * 11)
    assert (place.left(), place.blobs()) == ([], [])


def test_exactly_as_much_as_is_allowed_is_allowed(place: Place) -> None:
    with place.store.writer(max_bytes=5) as writer:
        writer.write(b"hello")
        assert writer.commit().bytes == 5


def test_a_sealed_blob_begins_with_what_was_written_and_is_like_no_other(place: Place) -> None:
    sealed = []
    for _ in range(2):
        with place.store.writer(max_bytes=5) as writer:
            writer.write(b"hello")
            assert writer.written() == Blob(sha256=HELLO, bytes=5)
            writer.seal()
            sealed.append(writer.commit())
    assert sealed[0].sha256 != sealed[1].sha256
    assert [blob.bytes > 5 for blob in sealed] == [True, True]
    place.store.remove(sealed[0].sha256)
    assert b"".join(place.store.read(sealed[1].sha256, stop=5)) == b"hello"
    assert place.blobs() == [sealed[1].sha256]


def test_a_blob_is_removed_and_may_be_removed_again(place: Place) -> None:
    _put(place.store, b"hello")
    for _ in range(2):
        place.store.remove(HELLO)
        assert not place.store.exists(HELLO)


# === Files ===


def test_a_file_is_stored_and_fetched_again(place: Place, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"hello")
    assert place.store.put_file(source) == Blob(sha256=HELLO, bytes=5)
    place.store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"
    assert destination.stat().st_mode & 0o777 == 0o440
    assert sorted(path.name for path in tmp_path.iterdir()) == ["destination", "source", "store"]
    assert place.left() == []


def test_a_fetch_replaces_what_is_there(place: Place, tmp_path: Path) -> None:
    _put(place.store, b"hello")
    destination = tmp_path / "destination"
    destination.write_bytes(b"old")
    place.store.fetch(HELLO, destination)
    place.store.fetch(HELLO, destination)
    assert destination.read_bytes() == b"hello"


def test_damaged_bytes_are_never_handed_out_as_a_file(place: Place, tmp_path: Path) -> None:
    _put(place.store, b"hello")
    place.damage(HELLO, b"hellO")
    with pytest.raises(PlatformError, match="damaged") as caught:
        place.store.fetch(HELLO, tmp_path / "destination")
    assert caught.value.work_code == "corrupt_artifact"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


class Enough(Exception):  # noqa: N818 (named for what happened)
    """Somebody does not want to wait."""


class Looks:
    """A check that has enough after some looks."""

    def __init__(self, most: int) -> None:
        self.left = most

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Enough


def test_whoever_has_enough_of_a_transfer_ends_it_in_the_middle_and_nothing_is_left(
    place: Place, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * PART_BYTES + 5))
    with pytest.raises(Enough):
        place.store.put_file(source, check=Looks(1))
    assert (place.blobs(), place.left()) == ([], [])
    blob = place.store.put_file(source, check=Looks(1000))
    with pytest.raises(Enough):
        place.store.fetch(blob.sha256, tmp_path / "destination", check=Looks(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store"]


def test_what_is_not_there_is_told_at_once(place: Place, tmp_path: Path) -> None:
    for call in (lambda: place.store.read("0" * 64), lambda: place.store.fetch("0" * 64, tmp_path / "x")):
        with pytest.raises(PlatformError, match="not in the store") as caught:
            call()
        assert caught.value.work_code == "missing_artifact"
    assert not place.store.exists("0" * 64)


# === Room ===


def test_no_upload_begins_when_there_is_too_little_room(place: Place) -> None:
    store = place.open(min_free_disk_bytes=2**62)
    with pytest.raises(StorageFullError, match="kept free"):
        store.writer(max_bytes=10)
    assert store.free_bytes() > 0


def test_an_upload_ends_when_room_runs_short_on_the_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.store.writer(max_bytes=2**30) as writer:
        monkeypatch.setattr(place.store._spool, "_min_free_bytes", 2**62)
        writer.write(bytes(2 * CHUNK_BYTES))
        with pytest.raises(StorageFullError):
            writer.write(bytes(14 * CHUNK_BYTES))
    assert (place.left(), place.blobs()) == ([], [])


def test_room_is_looked_for_where_bytes_will_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.store._spool, "_min_free_bytes", 0)
    monkeypatch.setattr(place.store._spool, "free_bytes", lambda: 1000)
    place.store.check_room(spooled=400, kept=600)
    with pytest.raises(StorageFullError, match="no room for 1,001 bytes more: 1,000 bytes are free"):
        place.store.check_room(spooled=1001, kept=0)
    if place.bucket is None:
        with pytest.raises(StorageFullError, match="1,001 bytes more"):
            place.store.check_room(spooled=400, kept=601)
    else:
        place.store.check_room(spooled=400, kept=10**15)


def test_a_store_that_is_there_says_nothing(place: Place) -> None:
    place.store.probe()


def _put(store: ArtifactStore, *chunks: bytes) -> Blob:
    with store.writer(max_bytes=2**30) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()
