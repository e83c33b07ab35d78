"""The artifact store in a bucket, beyond what every store promises: troubles of networks, refusals, what is sent."""

import hashlib
import http.server
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.artifacts import Blob
from app.domain.errors import MisconfiguredError, PlatformError, ServiceUnavailableError, StorageFullError
from app.settings import GIB, Settings
from app.storage import s3
from app.storage.artifacts import CHUNK_BYTES
from app.storage.s3 import MAX_PARTS, PART_BYTES, S3Artifacts, part_bytes

HELLO = hashlib.sha256(b"hello").hexdigest()
KEY = f"sha256/2c/f2/{HELLO}"


class Moody(http.server.BaseHTTPRequestHandler):
    """A store without anything in it, in the mood that the test puts it in."""

    moods: list[tuple[int, str]]
    seen: list[str]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(self.command)
        usual = (200, "<ListBucketResult></ListBucketResult>") if self.command == "GET" else (200, "")
        status, code = self.moods.pop(0) if self.moods else (404, "") if self.command == "HEAD" else usual
        body = (f"<Error><Code>{code}</Code></Error>" if status >= 400 else code).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (the names are http.server's)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def moody() -> Iterator[type[Moody]]:
    """The handler's class: `moods` are answered first, in order; `seen` are the methods of requests."""
    handler = type("Handler", (Moody,), {"moods": [], "seen": [], "protocol_version": "HTTP/1.1"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.endpoint = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[..., S3Artifacts]:
    def open_store(*, patience_seconds: float = 3.0, **settings: Any) -> S3Artifacts:
        given = {"artifacts_url": "s3://bucket", "s3_access_key": "key", "s3_secret_key": "hunter2", **settings}
        return S3Artifacts(Settings(data_dir=tmp_path / "data", **given), patience_seconds=patience_seconds)

    return open_store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    return path


def _calls(store: S3Artifacts, file: Path) -> list[Callable[[], object]]:
    return [
        store.probe,
        lambda: store.writer(max_bytes=10),
        lambda: store.put_file(file),
        lambda: store.read(HELLO),
        lambda: store.fetch(HELLO, file.with_name("fetched")),
        lambda: store.exists(HELLO),
        lambda: store.remove(HELLO),
    ]


# === Where blobs are ===


def test_blobs_lie_below_the_prefix_of_the_url(bucket: Any, open_store: Callable[..., S3Artifacts], file: Path) -> None:
    open_store(**bucket.settings).put_file(file)
    open_store(**{**bucket.settings, "artifacts_url": f"s3://{bucket.name}"}).put_file(file)
    assert bucket.keys() == [KEY, KEY], "one below some/prefix, one at the top"


@pytest.mark.parametrize(
    "url", ["/srv/artifacts", "https://s3.example.com/bucket", "s3://", "s3://UPPER", "gs://bucket"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="artifacts_url"):
        Settings(artifacts_url=url)


@pytest.mark.parametrize("size", [0, PART_BYTES, 5 * GIB, 50 * GIB, 1000 * GIB])
def test_parts_are_neither_too_many_nor_too_small(size: int) -> None:
    assert part_bytes(size) >= PART_BYTES
    assert part_bytes(size) * MAX_PARTS >= size
    assert part_bytes(50 * GIB) == PART_BYTES, "memory stays what it is for all that is usual"


def test_the_same_bytes_are_sent_once(moody: Any, open_store: Callable[..., S3Artifacts], file: Path) -> None:
    store = open_store(s3_endpoint=moody.endpoint)
    store.put_file(file)
    assert moody.seen == ["HEAD", "PUT"]


def test_what_killed_uploads_left_on_this_machine_goes_when_it_is_a_day_old(
    open_store: Callable[..., S3Artifacts], tmp_path: Path
) -> None:
    store = open_store()
    for name in ("old", "young"):
        (tmp_path / "data" / "spool" / name).write_bytes(b"half of")
    os.utime(tmp_path / "data" / "spool" / "old", times=(then := time.time() - 86_500, then))
    store.remove_stale()
    assert [path.name for path in (tmp_path / "data" / "spool").iterdir()] == ["young"]


def test_a_file_that_vanishes_is_not_the_stores_fault(
    moody: Any, open_store: Callable[..., S3Artifacts], file: Path
) -> None:
    store = open_store(s3_endpoint=moody.endpoint)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        store._upload(file, Blob(sha256=HELLO, bytes=5))


# === A store that is away, or has no time ===


def test_a_store_that_is_away_is_told_of_by_every_call(open_store: Callable[..., S3Artifacts], file: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        store = open_store(s3_endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}", patience_seconds=0.2)
        for call in _calls(store, file):
            with pytest.raises(ServiceUnavailableError, match="does not answer") as caught:
                call()
            assert not isinstance(caught.value, MisconfiguredError)
            assert "127.0.0.1" not in caught.value.message


def test_a_store_that_says_nothing_is_waited_for_no_longer_than_patience_lasts(
    open_store: Callable[..., S3Artifacts], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "REQUEST_SECONDS", 10.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_store(s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", patience_seconds=0.2)
        for call in (
            lambda: store.writer(max_bytes=10),
            lambda: store.exists(HELLO),
            lambda: store.read(HELLO),
            lambda: store.put_file(file),
        ):
            began = time.monotonic()
            with pytest.raises(ServiceUnavailableError, match="does not answer"):
                call()
            assert time.monotonic() - began < 8


def test_a_store_without_time_is_asked_again(moody: Any, open_store: Callable[..., S3Artifacts], file: Path) -> None:
    store = open_store(s3_endpoint=moody.endpoint)
    moody.moods += [(503, "SlowDown"), (500, "InternalError"), (404, ""), (503, "SlowDown")]
    assert store.put_file(file).sha256 == HELLO
    assert moody.seen == ["HEAD", "HEAD", "HEAD", "PUT", "PUT"]


@pytest.mark.parametrize(("status", "code"), [(429, "TooManyRequests"), (408, ""), (400, "RequestTimeout")])
def test_what_passes_is_no_refusal(
    moody: Any, open_store: Callable[..., S3Artifacts], file: Path, status: int, code: str
) -> None:
    store = open_store(s3_endpoint=moody.endpoint, patience_seconds=0.2)
    moody.moods += [(404, ""), *[(status, code)] * 20]
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        store.put_file(file)


def test_a_probe_is_not_patient(moody: Any, open_store: Callable[..., S3Artifacts]) -> None:
    store = open_store(s3_endpoint=moody.endpoint, patience_seconds=300)
    moody.moods += [(503, "SlowDown")] * 10
    with pytest.raises(ServiceUnavailableError):
        store.probe()
    assert len(moody.seen) == 2


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (401, "InvalidAccessKeyId"), (404, "NoSuchBucket"), (400, "Odd")]
)
def test_a_refusal_is_told_apart_at_once(
    moody: Any, open_store: Callable[..., S3Artifacts], file: Path, status: int, code: str
) -> None:
    store = open_store(s3_endpoint=moody.endpoint, patience_seconds=300)
    moody.moods += [(404, ""), (status, code)]
    with pytest.raises(MisconfiguredError, match="refuses Thaw"):
        store.put_file(file)
    assert moody.seen == ["HEAD", "PUT"]


def test_a_bucket_that_is_gone_is_no_missing_artifact(
    bucket: Any, open_store: Callable[..., S3Artifacts], file: Path
) -> None:
    store = open_store(**bucket.settings)
    bucket.delete()
    for call in _calls(store, file)[:5]:
        with pytest.raises(MisconfiguredError, match="existing bucket"):
            call()


@pytest.mark.parametrize(("status", "code"), [(403, "QuotaExceeded"), (507, "XMinioStorageFull"), (507, "")])
def test_a_full_store_is_told_as_a_full_disk(
    moody: Any, open_store: Callable[..., S3Artifacts], file: Path, status: int, code: str
) -> None:
    store = open_store(s3_endpoint=moody.endpoint, patience_seconds=0.2)
    moody.moods += [(404, ""), *[(status, code)] * 20]
    with pytest.raises(StorageFullError, match="no room left"):
        store.put_file(file)


def test_one_half_of_a_key_is_none(open_store: Callable[..., S3Artifacts]) -> None:
    with pytest.raises(MisconfiguredError, match="belong together"):
        open_store(s3_secret_key=None)


# === What changes meanwhile ===


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES + 10])
@pytest.mark.parametrize("change", ["other bytes", "cut short"])
def test_a_file_that_changes_while_it_is_stored_leaves_nothing(
    bucket: Any, open_store: Callable[..., S3Artifacts], file: Path, size: int, change: str
) -> None:
    store, path = open_store(**bucket.settings), file.with_name("growing")
    path.write_bytes(bytes(size))
    upload = store._upload

    def change_first(*given: Any) -> None:
        path.write_bytes(b"x" * size if change == "other bytes" else bytes(size - 1))
        upload(*given)

    store._upload = change_first  # type: ignore[method-assign]
    with pytest.raises(PlatformError, match="'growing' was changed"):
        store.put_file(path)
    assert (bucket.keys(), bucket.uploads()) == ([], [])


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES + 10])
def test_an_upload_that_somebody_cuts_short_leaves_nothing(
    bucket: Any, open_store: Callable[..., S3Artifacts], file: Path, size: int
) -> None:
    store, path = open_store(**bucket.settings), file.with_name("large")
    path.write_bytes(bytes(size))
    chunks = -(-size // CHUNK_BYTES)
    looks = itertools.count()

    class Enough(Exception):  # noqa: N818 (named for what happened)
        pass

    def have_enough_while_it_is_sent() -> None:
        if next(looks) == chunks + chunks // 2:  # it is read for its digest before
            raise Enough

    with pytest.raises(Enough):
        store.put_file(path, check=have_enough_while_it_is_sent)
    assert (bucket.keys(), bucket.uploads()) == ([], [])


def test_what_was_fetched_has_its_name_when_all_of_it_is_on_the_disk(
    bucket: Any, open_store: Callable[..., S3Artifacts], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, destination = open_store(**bucket.settings), file.with_name("fetched")
    store.put_file(file)
    synced: list[tuple[bytes, bool]] = []

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            synced.append((path.read_bytes(), destination.exists()))

    monkeypatch.setattr(os, "fsync", note)
    store.fetch(HELLO, destination)
    assert synced == [(b"hello", False)]


def test_a_blob_that_is_deleted_while_it_is_read_is_missing(
    bucket: Any, open_store: Callable[..., S3Artifacts], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "WINDOW_BYTES", 2)
    store = open_store(**bucket.settings)
    store.put_file(file)
    chunks = store.read(HELLO)
    assert next(chunks) == b"he"
    store.remove(HELLO)
    with pytest.raises(PlatformError, match="not in the store"):
        next(chunks)


def test_no_secret_is_shown(bucket: Any, open_store: Callable[..., S3Artifacts]) -> None:
    store = open_store(**bucket.settings)
    assert "hunter2" not in repr(vars(store))
    assert "hunter2" not in repr(Settings(**bucket.settings))
