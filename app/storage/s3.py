"""The artifact store in a bucket of an S3-compatible store.

    prefix/sha256/ab/cd/abcd…   a blob; written once, by one PUT or one multipart upload, which S3 shows whole or not

What is written comes to a file of this machine first (`app.storage.spool`): a blob's name is known only at its end, and
S3 cannot rename. What is read comes in windows of some megabytes, each a request of its own that is tried again if it
fails, however slow the reader is.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from app.domain.artifacts import Blob
from app.domain.errors import (
    MisconfiguredError,
    PlatformError,
    ServiceUnavailableError,
    StorageFullError,
    ThawError,
)
from app.settings import Settings
from app.storage.artifacts import (
    CHUNK_BYTES,
    Check,
    StoredBlob,
    corrupt_artifact,
    digest_of,
    go_on,
    missing_artifact,
)
from app.storage.durable import sync_folder
from app.storage.spool import READ_ONLY, Spool, SpoolWriter, out_of_room

PART_BYTES = 8 * 1024**2
"""Smaller blobs are one request; larger ones go up in parts of at least this size."""
MAX_PARTS = 10_000
"""S3's own limit for one upload."""
WINDOW_BYTES = 8 * 1024**2
"""Read by one request."""
AT_ONCE = 4
"""Requests at once for one file: what bounds memory to some windows or parts."""
PROBE_SECONDS = 3.0
REQUEST_SECONDS = 60.0
"""For one window or part: 140 KB/s are enough. A question without a body has no longer than patience lasts."""

_FULL = re.compile(r"<Code>\w*(QuotaExceeded|StorageFull|InsufficientStorage)\w*</Code>|status code: 507")
_REFUSED = re.compile(r"status code: 4(?!08|09|29)\d\d(?!.*<Code>RequestTimeout</Code>)", re.DOTALL)
"""Not a timeout, a conflict, or too many requests: these pass."""

_log = structlog.get_logger(__name__)


class S3Artifacts:
    """Blobs in a bucket. Safe for any number of processes and machines at once."""

    def __init__(self, settings: Settings, *, patience_seconds: float) -> None:
        """`patience_seconds`: how long a store that does not answer is waited for, and asked again."""
        self._store = _connect(settings, retry_seconds=patience_seconds, request_seconds=REQUEST_SECONDS)
        short = min(patience_seconds, REQUEST_SECONDS)
        self._asking = _connect(settings, retry_seconds=patience_seconds, request_seconds=short)
        self._impatient = _connect(settings, retry_seconds=PROBE_SECONDS, request_seconds=PROBE_SECONDS, retries=1)
        self._young = settings.orphan_grace_seconds / 2
        self._spool = Spool(
            settings.spool_dir().absolute(), min_free_bytes=settings.min_free_disk_bytes, keep=self._upload
        )

    def writer(self, *, max_bytes: int) -> SpoolWriter:
        """Begin a blob; not where nobody would take it in the end."""
        _ask(self._asking)
        return self._spool.writer(max_bytes=max_bytes)

    def put_file(self, path: Path, *, check: Check = go_on) -> Blob:
        """Store a file, from where it is."""
        blob = Blob(sha256=digest_of(path, check=check), bytes=path.stat().st_size)
        self._upload(path, blob, check)
        return blob

    def read(self, sha256: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes, in chunks."""
        size = self._there(sha256)
        return self._chunks(sha256, start, size if stop is None else min(stop, size))

    def fetch(self, sha256: str, destination: Path, *, check: Check = go_on) -> None:
        """Download the blob, checked on the way."""
        size = self._there(sha256)
        temporary = destination.with_name(f".{destination.name}-{secrets.token_hex(8)}")
        try:
            with out_of_room():
                self._download(sha256, size, temporary, check)
                temporary.replace(destination)
                sync_folder(destination.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Delete the blob, without patience: that can be done later."""
        with _problems():
            obstore.delete(self._impatient, _key(sha256))

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        return self._size_of(sha256) is not None

    def list_blobs(self) -> Iterator[StoredBlob]:
        """Whatever has the name of a blob where blobs are."""
        with _problems():
            for some in obstore.list(self._store, prefix="sha256"):
                for found in some:
                    sha256 = found["path"].rpartition("/")[2]
                    if found["path"] == _key(sha256):
                        yield StoredBlob(sha256, found["last_modified"].timestamp())

    def remove_older(self, sha256: str, *, than: float) -> bool:
        """Delete the blob if it is as old as that.

        S3 looks and deletes in two requests: an upload of the same bytes in the milliseconds between them, of a blob
        that nothing has referred to for so long, would be lost.
        """
        with _problems():
            try:
                modified_at = obstore.head(self._store, _key(sha256))["last_modified"].timestamp()
            except FileNotFoundError:
                return False
            if modified_at >= than:
                return False
            obstore.delete(self._store, _key(sha256))
        return True

    def remove_stale(self) -> None:
        """Look through the folder of temporary files."""
        self._spool.remove_stale()

    def free_bytes(self) -> int:
        """Room on the disk where uploads wait for the bucket."""
        return self._spool.free_bytes()

    def check_room(self, *, spooled: int, kept: int) -> None:  # noqa: ARG002 (a bucket does not tell its room)
        """What is on its way is on the disk of this machine."""
        self._spool.check_room(spooled)

    def probe(self) -> None:
        """List nothing: answered only where there is the bucket, and a key that opens it."""
        _ask(self._impatient)

    def _size_of(self, sha256: str) -> int | None:
        with _problems():
            try:
                return int(obstore.head(self._asking, _key(sha256))["size"])
            except FileNotFoundError:
                return None

    def _stays(self, blob: Blob) -> bool:
        """Whether it is there, and young enough that nobody takes it for left over before it has a row."""
        with _problems():
            try:
                found = obstore.head(self._asking, _key(blob.sha256))
            except FileNotFoundError:
                return False
        return int(found["size"]) == blob.bytes and time.time() - found["last_modified"].timestamp() < self._young

    def _there(self, sha256: str) -> int:
        """The blob's size in bytes."""
        size = self._size_of(sha256)
        if size is None:
            self.probe()  # a bucket that is gone looks the same
            raise missing_artifact(sha256)
        return size

    def _chunks(self, sha256: str, start: int, stop: int) -> Iterator[bytes]:
        for window in self._windows(sha256, start, stop, at_once=1):
            for offset in range(0, len(window), CHUNK_BYTES):
                yield bytes(window[offset : offset + CHUNK_BYTES])

    def _windows(self, sha256: str, start: int, stop: int, *, at_once: int) -> Iterator["memoryview[int]"]:
        for begin in range(start, stop, WINDOW_BYTES * at_once):
            starts = list(range(begin, min(stop, begin + WINDOW_BYTES * at_once), WINDOW_BYTES))
            lengths = [min(WINDOW_BYTES, stop - each) for each in starts]
            with _problems():
                try:
                    windows = obstore.get_ranges(self._store, _key(sha256), starts=starts, lengths=lengths, coalesce=0)
                except FileNotFoundError as error:
                    raise missing_artifact(sha256) from error
            for window in windows:
                yield memoryview(window)

    def _download(self, sha256: str, size: int, destination: Path, check: Check) -> None:
        digest = hashlib.sha256()
        with destination.open("xb") as file:
            for window in self._windows(sha256, 0, size, at_once=AT_ONCE):
                check()
                digest.update(window)
                file.write(window)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise corrupt_artifact(sha256, found=digest.hexdigest())
        destination.chmod(READ_ONLY)

    def _upload(self, path: Path, blob: Blob, check: Check = go_on) -> None:
        """Put a file under its name, unless it is there.

        Two that do so at once write the same bytes, and S3 shows those of one or of the other.
        """
        if self._stays(blob):
            return
        single = blob.bytes <= PART_BYTES
        content = _checked(path, blob, check)
        # What is wrong with the file is not the store's fault.
        body = b"".join(content) if single else content
        with _problems():
            obstore.put(
                self._store,
                _key(blob.sha256),
                body,
                use_multipart=not single,
                chunk_size=part_bytes(blob.bytes),
                max_concurrency=AT_ONCE,
            )


def _ask(store: S3Store) -> None:
    with _problems():
        obstore.list_with_delimiter(store, "probe")


def part_bytes(size: int) -> int:
    """How large the parts of an upload of `size` bytes are: as few mebibytes as S3's number of parts allows."""
    mebibytes = -(-size // (MAX_PARTS * 1024**2))
    return max(PART_BYTES, mebibytes * 1024**2)


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def _checked(path: Path, blob: Blob, check: Check) -> Iterator[bytes]:
    """The file's bytes. An error before the last of them ends an upload without a trace."""
    digest, left = hashlib.sha256(), blob.bytes
    with path.open("rb") as file:
        while left > 0:
            chunk = file.read(min(CHUNK_BYTES, left))
            left -= len(chunk)
            digest.update(chunk)
            check()
            if not chunk or (left == 0 and digest.hexdigest() != blob.sha256):
                message = f"The file '{path.name}' was changed while it was stored. Store it again when it is complete."
                raise PlatformError(message, code="file_changed")
            yield chunk


def _connect(settings: Settings, *, retry_seconds: float, request_seconds: float, retries: int = 1000) -> S3Store:
    """What is not set comes from `AWS_…` variables, which are read here, or from the machine's role."""
    bucket, _, prefix = settings.artifacts_url.removeprefix("s3://").partition("/")
    config: dict[str, Any] = {"region": settings.s3_region, "disable_bulk_delete": True}
    if settings.s3_endpoint:
        config["endpoint"] = settings.s3_endpoint
    if (settings.s3_access_key is None) != (settings.s3_secret_key is None):
        message = "THAW_S3_ACCESS_KEY and THAW_S3_SECRET_KEY belong together; received one of them. Set both or none."
        raise MisconfiguredError(message)
    if settings.s3_access_key and settings.s3_secret_key:
        config["access_key_id"] = settings.s3_access_key.get_secret_value()
        config["secret_access_key"] = settings.s3_secret_key.get_secret_value()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,  # type: ignore[arg-type]  # a dict of what is set
        client_options={
            "allow_http": (settings.s3_endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=min(5.0, request_seconds)),
            "timeout": timedelta(seconds=request_seconds),
        },
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=retry_seconds),
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
    )


# === Errors ===


@contextmanager
def _problems() -> Iterator[None]:
    """What goes wrong with the bucket, as an error of ours; its own words go to the log alone."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        problem = _problem(error)
        _log.warning("artifact store failed", problem=problem.code, error=str(error).partition("\n\nDebug")[0][:1000])
        raise problem from error


def _problem(error: Exception) -> ThawError:
    text = str(error)
    if _FULL.search(text):
        return StorageFullError("The artifact store has no room left. Delete what is not needed, or raise its quota.")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | FileNotFoundError) or _REFUSED.search(text):
        return MisconfiguredError(
            "The artifact store refuses Thaw: expected an existing bucket, and a key that may list it and read, write "
            "and delete in it. The log holds its own words; look at THAW_ARTIFACTS_URL and THAW_S3_…."
        )
    return ServiceUnavailableError("The artifact store does not answer at the moment. Try again in a few seconds.")
