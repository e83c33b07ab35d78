"""The artifact store: bytes by their sha256, each once, never changed; there in full or not at all.

LocalArtifacts   app.storage.local   a folder of this machine, or one that all machines share
S3Artifacts      app.storage.s3      a bucket of an S3-compatible store, for machines that share nothing
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from app.domain.artifacts import Blob
from app.domain.errors import PlatformError

CHUNK_BYTES = 1024**2

Check = Callable[[], None]
"""Called again and again while a file is read or sent. What it raises ends that, and leaves nothing behind."""


def go_on() -> None:
    """The check of a transfer that nobody cuts short."""


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is there."""

    sha256: str
    modified_at: float
    """When it was written last, be it with the same bytes: Unix seconds by the store's clock."""


class BlobWriter(Protocol):
    """Writes one blob; a context manager. Left without `commit`, it leaves nothing behind."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, chunk: bytes | bytearray) -> None:
        """Append. Raises `TooLargeError` beyond `max_bytes`, `StorageFullError` if there is no room."""
        ...

    def written(self) -> Blob:
        """What was written so far: its digest and size."""
        ...

    def seal(self) -> None:
        """Append random bytes, which `max_bytes` does not count: no other blob is the same, so it may be removed."""
        ...

    def commit(self) -> Blob:
        """Make it durable; whoever has the answer can read it.

        Raises `StorageFullError`, and `ServiceUnavailableError` where it has to go to a store that does not answer.
        """
        ...


class ArtifactStore(Protocol):
    """Where bytes live.

    Any method may raise `ServiceUnavailableError`: its disk, or a store on the network, does not answer, however
    often it was asked, or (`MisconfiguredError`) it answers, and refuses us.
    """

    def writer(self, *, max_bytes: int) -> BlobWriter:
        """Begin a blob of at most `max_bytes`. Raises `StorageFullError` if there is no room; may take a while."""
        ...

    def put_file(self, path: Path, *, check: Check = go_on) -> Blob:
        """Store a copy of a file. Raises `StorageFullError`."""
        ...

    def read(self, sha256: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `stop` (`None`: the end), in chunks of at most 1 MiB.

        Raises `PlatformError` (code `missing_artifact`) at once if it is not there.
        """
        ...

    def fetch(self, sha256: str, destination: Path, *, check: Check = go_on) -> None:
        """Put the blob at `destination`, checked against its name; there in full or not at all.

        It may share its bytes with the store: it is read-only and must not be made writable. Raises
        `PlatformError` (codes `missing_artifact`, `corrupt_artifact`) and `StorageFullError`.
        """
        ...

    def remove(self, sha256: str) -> None:
        """Delete a blob, if it is there.

        Equal bytes are kept once, and nobody counts who needs them: only for one that nobody else can have written.
        """
        ...

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        ...

    def list_blobs(self) -> Iterator[StoredBlob]:
        """All that are there, in no order; those that come or go meanwhile may be among them or not."""
        ...

    def remove_older(self, sha256: str, *, than: float) -> bool:
        """Delete a blob unless it was written since `than` (Unix seconds); whether it was there and is gone.

        Whoever writes it at the same moment either has it afterwards, or has written it anew.
        """
        ...

    def remove_stale(self) -> None:
        """Delete what writers left on this machine's disk that died more than a day ago."""
        ...

    def free_bytes(self) -> int:
        """Room that is left on the disk to which blobs are written first; buckets tell nobody how much they have."""
        ...

    def check_room(self, *, spooled: int, kept: int) -> None:
        """Raise `StorageFullError` unless there is room for so many bytes on their way, beside so many that stay.

        A bucket tells nobody how much room it has: there only those on their way count.
        """
        ...

    def probe(self) -> None:
        """Ask whether it answers, once and for a few seconds at most. Raises `ServiceUnavailableError`."""
        ...


MISSING = "missing_artifact"
"""Code of the error for a blob that should be there."""


def digest_of(path: Path, *, check: Check) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check()
            digest.update(chunk)
    return digest.hexdigest()


def missing_artifact(sha256: str) -> PlatformError:
    """The error for a blob that should be there."""
    message = f"The artifact {sha256} is not in the store. Restore it from a backup, or make it anew."
    return PlatformError(message, code=MISSING)


def corrupt_artifact(sha256: str, *, found: str) -> PlatformError:
    """The error for a blob whose bytes have another digest."""
    message = f"The artifact {sha256} is damaged: its bytes have the digest {found}. Restore it from a backup."
    return PlatformError(message, code="corrupt_artifact")


def unreadable_artifact(sha256: str) -> PlatformError:
    """The error for a blob on a bad sector."""
    message = f"The artifact {sha256} is damaged: the disk cannot read it. Check it, and restore a backup."
    return PlatformError(message, code="corrupt_artifact")


PROBE_BYTES = 32


def try_out(store: ArtifactStore) -> None:
    """Write a blob that nobody else can have, read it back, delete it.

    Raises what the store raises, and `PlatformError` (code `corrupt_artifact`) if other bytes come back.
    """
    content = secrets.token_bytes(PROBE_BYTES)
    with store.writer(max_bytes=PROBE_BYTES) as writer:
        writer.write(content)
        blob = writer.commit()
    try:
        if b"".join(store.read(blob.sha256)) != content:
            message = "The artifact store gave other bytes back than were written to it. Check its disk."
            raise PlatformError(message, code="corrupt_artifact")
    finally:
        store.remove(blob.sha256)
