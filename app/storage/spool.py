"""The spool: a blob is written under a temporary name, counted and hashed, until it is known what it is called."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from app.domain.artifacts import Blob
from app.domain.errors import ServiceUnavailableError, StorageFullError, TooLargeError

READ_ONLY = 0o440
STALE_SECONDS = 86_400.0
"""Older temporary files belong to nobody: no upload takes a day."""
CHECK_ROOM_BYTES = 16 * 1024**2
"""How often a writer looks whether there is room left."""
SEAL_BYTES = 32
"""Random bytes at the end of a blob that is to be like no other."""

Keep = Callable[[Path, Blob], None]
"""Takes a file that is complete, synced and read-only, and makes it a blob of the store; the file may stay or go."""


class Spool:
    """A folder for temporary files. Safe for any number of processes at once."""

    def __init__(self, folder: Path, *, min_free_bytes: int, keep: Keep) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self.remove_stale()

    def writer(self, *, max_bytes: int) -> "SpoolWriter":
        """Begin a blob. Raises `StorageFullError` if there is no room."""
        with disk_answers():
            self.check_room()
        return SpoolWriter(self, self._folder / secrets.token_hex(16), max_bytes=max_bytes)

    def free_bytes(self) -> int:
        """Room for the user that runs this. Raises `OSError` if the folder is gone."""
        return shutil.disk_usage(self._folder).free

    def check_room(self, needed_bytes: int = 0) -> None:
        """Raises `StorageFullError` if less than `min_free_bytes`, for the database and running jobs, would be left."""
        free = self.free_bytes()
        if free - needed_bytes < self._min_free_bytes:
            more = f"{needed_bytes:,} bytes more" if needed_bytes else "more"
            message = (
                f"There is no room for {more}: {free:,} bytes are free, and {self._min_free_bytes:,} are kept free. "
                "Delete what is not needed, or get a larger disk."
            )
            raise StorageFullError(message)

    def remove_stale(self) -> None:
        """Remove what processes left that died while they wrote. By this machine's clock: a day is coarse enough."""
        for path in self._folder.iterdir():
            try:
                if path.stat().st_mtime < time.time() - STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer has just finished, or another process cleans up too

    def keep(self, temporary: Path, blob: Blob) -> None:
        """Hand a finished file to the store."""
        self._keep(temporary, blob)


class SpoolWriter:
    """Writes one blob under a temporary name."""

    def __init__(self, spool: Spool, temporary: Path, *, max_bytes: int) -> None:
        self._spool = spool
        self._temporary = temporary
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._checked_bytes = 0
        with disk_answers():
            self._file = temporary.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        try:
            with disk_answers():
                self._file.close()
        finally:
            with disk_answers():
                self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes | bytearray) -> None:
        """Append."""
        self._bytes += len(chunk)
        if self._bytes > self._max_bytes:
            message = f"More than the {self._max_bytes:,} bytes that are allowed. Send less, or raise the limit."
            raise TooLargeError(message)
        if self._bytes - self._checked_bytes >= CHECK_ROOM_BYTES:
            self._spool.check_room()
            self._checked_bytes = self._bytes
        self._append(chunk)

    def written(self) -> Blob:
        """What was written so far."""
        return Blob(sha256=self._hash.hexdigest(), bytes=self._bytes)

    def seal(self) -> None:
        """Append random bytes."""
        self._bytes += SEAL_BYTES
        self._append(secrets.token_bytes(SEAL_BYTES))

    def commit(self) -> Blob:
        """Sync, then hand it to the store."""
        blob = self.written()
        with disk_answers():
            self._file.flush()
            os.fchmod(self._file.fileno(), READ_ONLY)
            os.fsync(self._file.fileno())
            self._file.close()
            self._spool.keep(self._temporary, blob)
        return blob

    def _append(self, chunk: bytes | bytearray) -> None:
        self._hash.update(chunk)
        with disk_answers():
            self._file.write(chunk)


@contextmanager
def out_of_room() -> Iterator[None]:
    """What the system says about a full disk or quota, as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise no_room() from error


@contextmanager
def disk_answers() -> Iterator[None]:
    """Likewise; whatever else it says is the machine's trouble, and no work's: as for a store that does not answer.

    That may be a bad disk, a server of files that is away, a disk that turned read-only, or too many open files.
    """
    try:
        with out_of_room():
            yield
    except OSError as error:
        message = (
            f"The disk of artifacts cannot be used: {error.strerror or error}. Check it, its owner and permissions, "
            "and how many files may be open."
        )
        raise ServiceUnavailableError(message) from error


def no_room() -> StorageFullError:
    """The error for a disk that is full."""
    return StorageFullError("There is no room left on the disk. Delete what is not needed, or get a larger one.")
