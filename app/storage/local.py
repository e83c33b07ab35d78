"""The artifact store in a folder of this machine, or on a file system that all machines share."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from app.domain.artifacts import Blob
from app.domain.errors import PlatformError, StorageFullError, TooLargeError
from app.storage.artifacts import CHUNK_BYTES, StoredBlob
from app.storage.durable import make_folders, sync_folder

READ_ONLY = 0o440
STALE_SECONDS = 86_400.0
"""Older temporary files belong to nobody: no upload takes a day."""
CHECK_ROOM_BYTES = 16 * 1024**2
"""How often a writer looks whether there is room left."""


class LocalArtifacts:
    """Blobs in a folder. Safe for any number of processes at once."""

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder = folder.absolute()
        self._min_free_bytes = min_free_bytes
        self._temporary = self._folder / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        (self._folder / "sha256").mkdir(exist_ok=True)
        _remove_stale(self._temporary)

    def writer(self, *, max_bytes: int) -> "LocalBlobWriter":
        """Begin a blob."""
        self.check_room()
        return LocalBlobWriter(self, self._temporary / secrets.token_hex(16), max_bytes=max_bytes)

    def put_file(self, path: Path) -> Blob:
        """Store a copy of a file."""
        with path.open("rb") as file, self.writer(max_bytes=path.stat().st_size) as writer:
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def read(self, sha256: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes, in chunks."""
        path = self._there(sha256)
        end = path.stat().st_size if stop is None else stop
        return _chunks(path, start, end)

    def fetch(self, sha256: str, destination: Path) -> None:
        """Link or copy the blob, after its bytes were checked."""
        source = self._there(sha256)
        temporary = destination.with_name(f".{destination.name}-{secrets.token_hex(8)}")
        try:
            with out_of_room():
                _link_or_copy(source, temporary)
                _verify(temporary, sha256)
                temporary.replace(destination)
                sync_folder(destination.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Delete the blob; who has fetched it keeps it."""
        self.path_of(sha256).unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        return self.path_of(sha256).is_file()

    def list_blobs(self) -> Iterator[StoredBlob]:
        """Whatever has the name of a blob where blobs are."""
        for path in (self._folder / "sha256").glob("??/??/*"):
            try:
                modified_at = path.stat().st_mtime
            except FileNotFoundError:
                continue  # deleted a moment ago
            if path == self.path_of(path.name):
                yield StoredBlob(path.name, modified_at)

    def remove_older(self, sha256: str, *, than: float) -> bool:
        """Delete the blob if it is as old as that, while nobody adopts one."""
        path = self.path_of(sha256)
        with self._locked(fcntl.LOCK_EX):
            if not path.is_file() or path.stat().st_mtime >= than:
                return False
            path.unlink()
        return True

    def free_bytes(self) -> int:
        """Room for the user that runs this."""
        return shutil.disk_usage(self._folder).free

    def path_of(self, sha256: str) -> Path:
        """Where the blob is, if it is there."""
        return self._folder / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def check_room(self) -> None:
        """Raises `StorageFullError` below `min_free_bytes`, so that the database and running jobs keep some."""
        free = self.free_bytes()
        if free < self._min_free_bytes:
            message = (
                f"There is no room for more: {free:,} bytes are free, and {self._min_free_bytes:,} are kept free. "
                "Delete what is not needed, or get a larger disk."
            )
            raise StorageFullError(message)

    def adopt(self, temporary: Path, sha256: str) -> None:
        """Give a synced temporary file its final name, unless the blob is there already."""
        final = self.path_of(sha256)
        with self._locked(fcntl.LOCK_SH):
            if final.is_file() and final.stat().st_size == temporary.stat().st_size:
                os.utime(final)  # as young as if it had been written now: nobody may take it for left over
            else:
                make_folders(final.parent, root=self._folder)
                temporary.replace(final)
        # Also where it was there already: whoever has just written it may not have come so far.
        sync_folder(final.parent)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Many may adopt blobs at once, or one may delete an old one; the kernel lets go of it if its holder dies."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _there(self, sha256: str) -> Path:
        path = self.path_of(sha256)
        if not path.is_file():
            message = f"The artifact {sha256} is not in the store. Restore it from a backup, or make it anew."
            raise PlatformError(message, code="missing_artifact")
        return path


class LocalBlobWriter:
    """Writes one blob under a temporary name."""

    def __init__(self, store: LocalArtifacts, temporary: Path, *, max_bytes: int) -> None:
        self._store = store
        self._temporary = temporary
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._checked_bytes = 0
        with out_of_room():
            self._file = temporary.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        try:
            with out_of_room():
                self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._bytes += len(chunk)
        if self._bytes > self._max_bytes:
            message = f"More than the {self._max_bytes:,} bytes that are allowed. Send less, or raise the limit."
            raise TooLargeError(message)
        if self._bytes - self._checked_bytes >= CHECK_ROOM_BYTES:
            self._store.check_room()
            self._checked_bytes = self._bytes
        self._hash.update(chunk)
        with out_of_room():
            self._file.write(chunk)

    def commit(self) -> Blob:
        """Sync, then rename."""
        blob = Blob(sha256=self._hash.hexdigest(), bytes=self._bytes)
        with out_of_room():
            self._file.flush()
            os.fchmod(self._file.fileno(), READ_ONLY)
            os.fsync(self._file.fileno())
            self._file.close()
            self._store.adopt(self._temporary, blob.sha256)
        return blob


@contextmanager
def out_of_room() -> Iterator[None]:
    """What the system says about a full disk or quota, as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        message = "There is no room left on the disk. Delete what is not needed, or get a larger one."
        raise StorageFullError(message) from error


def _chunks(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def _link_or_copy(source: Path, destination: Path) -> None:
    try:
        destination.hardlink_to(source)
    except OSError as error:
        # Another file system, one without links, or too many of them.
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}:
            raise
        shutil.copyfile(source, destination)
        destination.chmod(READ_ONLY)
        with destination.open("rb") as file:
            os.fsync(file.fileno())


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        message = f"The artifact {sha256} is damaged: its bytes have the digest {found}. Restore it from a backup."
        raise PlatformError(message, code="corrupt_artifact")


def _remove_stale(folder: Path) -> None:
    """Remove what processes left that died while they wrote. By this machine's clock: a day is coarse enough."""
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has just finished, or another process cleans up too
