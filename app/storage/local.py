"""The artifact store in a folder of this machine, or on a file system that all machines share.

    artifacts/sha256/ab/cd/abcd…   a blob, read-only
    artifacts/tmp/…                what is being written; nothing here counts

A blob is written under a temporary name, hashed on the way, synced, renamed, and its folder is synced: it is there
in full or not at all, whatever dies in between.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.domain.artifacts import Blob
from app.domain.errors import ServiceUnavailableError
from app.storage.artifacts import (
    CHUNK_BYTES,
    Check,
    StoredBlob,
    corrupt_artifact,
    digest_of,
    go_on,
    missing_artifact,
    unreadable_artifact,
)
from app.storage.durable import make_folders, sync_folder
from app.storage.spool import READ_ONLY, Spool, SpoolWriter, disk_answers


class LocalArtifacts:
    """Blobs in a folder. Safe for any number of processes at once."""

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder = folder.absolute()
        self._spool = Spool(self._folder / "tmp", min_free_bytes=min_free_bytes, keep=self._adopt)
        (self._folder / "sha256").mkdir(exist_ok=True)

    def writer(self, *, max_bytes: int) -> SpoolWriter:
        """Begin a blob."""
        return self._spool.writer(max_bytes=max_bytes)

    def put_file(self, path: Path, *, check: Check = go_on) -> Blob:
        """Store a copy of a file."""
        with disk_answers(), path.open("rb") as file, self.writer(max_bytes=path.stat().st_size) as writer:
            while chunk := file.read(CHUNK_BYTES):
                check()
                writer.write(chunk)
            return writer.commit()

    def read(self, sha256: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes, in chunks."""
        with disk_answers():
            path = self._there(sha256)
            end = path.stat().st_size if stop is None else stop
        return self._chunks(path, start, end)

    def fetch(self, sha256: str, destination: Path, *, check: Check = go_on) -> None:
        """Link or copy the blob, after its bytes were checked."""
        temporary = destination.with_name(f".{destination.name}-{secrets.token_hex(8)}")
        with disk_answers():
            source = self._there(sha256)
            try:
                with self._readable(sha256):
                    _link_or_copy(source, temporary)
                    _verify(temporary, sha256, check)
                temporary.replace(destination)
                sync_folder(destination.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Delete the blob; who has fetched it keeps it."""
        with disk_answers():
            self.path_of(sha256).unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        with disk_answers():
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

    def remove_stale(self) -> None:
        """Look through the folder of temporary files."""
        self._spool.remove_stale()

    def free_bytes(self) -> int:
        """Room on the disk."""
        return self._spool.free_bytes()

    def check_room(self, *, spooled: int, kept: int) -> None:
        """Both are on the same disk."""
        self._spool.check_room(spooled + kept)

    def probe(self) -> None:
        """Look whether the folder is there."""
        try:
            self._spool.free_bytes()
        except OSError as error:
            message = (
                f"The folder of artifacts cannot be used: {error.strerror}. Mount its disk, or set THAW_DATA_DIR to "
                "where it is."
            )
            raise ServiceUnavailableError(message) from error

    def path_of(self, sha256: str) -> Path:
        """Where the blob is, if it is there."""
        return self._folder / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def _adopt(self, temporary: Path, blob: Blob) -> None:
        """Give a synced temporary file its final name.

        Also where the blob is there already: its bytes may have been damaged since, and those that were just written
        are known. Who has the old file open, or has linked it, keeps that one.
        """
        final = self.path_of(blob.sha256)
        with self._locked(fcntl.LOCK_SH):
            make_folders(final.parent, root=self._folder)
            os.utime(temporary)  # its age counts from here, however slowly it came: nobody may take it for left over
            temporary.replace(final)
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

    def _chunks(self, path: Path, start: int, end: int) -> Iterator[bytes]:
        with self._readable(path.name), _opened(path) as file:
            file.seek(start)
            left = end - start
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    @contextmanager
    def _readable(self, sha256: str) -> Iterator[None]:
        """Bytes that the disk cannot read, although it answers, are damaged: an older checkpoint may be sound."""
        try:
            with disk_answers():
                yield
        except ServiceUnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EIO:
                raise
            self.probe()
            raise unreadable_artifact(sha256) from cause

    def _there(self, sha256: str) -> Path:
        path = self.path_of(sha256)
        if not path.is_file():
            raise missing_artifact(sha256)
        return path


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:  # deleted since it was looked for
        raise missing_artifact(path.name) from error


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


def _verify(path: Path, sha256: str, check: Check) -> None:
    found = digest_of(path, check=check)
    if found != sha256:
        raise corrupt_artifact(sha256, found=found)
