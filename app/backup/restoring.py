"""Restoring a backup into an empty data folder.

    hold the folder -> unpack and check into restore.partial -> artifacts, then thaw.db, under their names -> let go

Without `thaw.db` there is nothing to start on, so that half of a restore is never taken for a whole one: who is
killed in between leaves a folder that the next restore clears.
"""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from app.backup.archive import BLOB_NAME, DATABASE, END, FORMAT, HEAD, MAX_JSON_BYTES, End, Head, Summary, not_a_backup
from app.domain.errors import ConflictError, PlatformError
from app.settings import Settings
from app.standalone import folder
from app.storage import blobs, snapshot
from app.storage.artifacts import CHUNK_BYTES
from app.storage.database import Database, is_known, upgrade
from app.storage.durable import sync_folder
from app.storage.local import LocalArtifacts
from app.storage.spool import out_of_room

Value = TypeVar("Value", bound=BaseModel)

PARTIAL, ARTIFACTS, RUN = "restore.partial", "artifacts", "run"


def restore(settings: Settings, path: Path) -> Summary:
    """Fill the data folder from a backup, and bring the database to this version's schema.

    Raises `ConflictError` unless the folder is empty, `InvalidRequestError` for what is no whole backup or was damaged
    since, `StorageFullError`, and `PlatformError` for a database beyond use. The folder is then empty again.
    """
    target = settings.data_dir.expanduser().resolve()
    if settings.artifacts_url:
        message = "A backup is restored into a folder; THAW_ARTIFACTS_URL names a bucket. Unset it, and copy the blobs."
        raise ConflictError(message)
    with out_of_room(), snapshot.sqlite_refusals(), _held(target):
        partial = target / PARTIAL
        partial.mkdir(mode=0o700)
        summary = _Restoring(path, partial).run(target)
        _publish(partial, target)
        shutil.rmtree(partial, ignore_errors=True)
    return summary


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """An empty folder, on which no service can be started meanwhile."""
    folder.make_private(target)
    _refuse_used(target)
    folder.make_private(target / RUN)
    with folder.held(target / RUN):
        _refuse_used(target)
        for left in (ARTIFACTS, PARTIAL):
            shutil.rmtree(target / left, ignore_errors=True)
        try:
            yield
        except BaseException:
            _clear(target)
            raise


def _clear(target: Path) -> None:
    """Take away what was restored so far, the database first and `restore.partial`, which tells of a half, last."""
    (target / DATABASE).unlink(missing_ok=True)
    for left in (ARTIFACTS, PARTIAL, RUN):
        shutil.rmtree(target / left, ignore_errors=True)


def _refuse_used(target: Path) -> None:
    """Empty, or what a restore left that was killed."""
    names = {path.name for path in target.iterdir()}
    unfinished = PARTIAL in names and names <= {PARTIAL, ARTIFACTS, RUN}
    if names - {RUN} and not unfinished:
        message = (
            f"{target} is not empty: it has {', '.join(sorted(names)[:5])}. A backup is restored into an empty folder: "
            "name another one with --data-dir, or move what is there away."
        )
        raise ConflictError(message)


def _publish(partial: Path, target: Path) -> None:
    if (partial / f"{DATABASE}-wal").exists():
        message = "SQLite did not close the restored database in order. Try again."
        raise PlatformError(message, code="internal_error")
    (partial / ARTIFACTS).rename(target / ARTIFACTS)
    sync_folder(target)
    (partial / DATABASE).rename(target / DATABASE)
    sync_folder(target)


class _Restoring:
    """One backup on its way into a folder."""

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._partial = partial
        self._store = LocalArtifacts(partial / ARTIFACTS)
        self._whole: set[str] = set()
        self._damaged: set[str] = set()
        self._bytes = 0

    def run(self, target: Path) -> Summary:
        """Unpack and check everything."""
        try:
            with tarfile.open(self._path, mode="r:") as archive:
                end = self._unpack(archive)
        except tarfile.TarError as error:
            why = f"it is no archive, or a part of one ({error})"
            raise not_a_backup(self._path, why) from error
        lost = self._check(end)
        return Summary(path=str(target), blobs=len(self._whole), bytes=self._bytes, lost=lost)

    def _unpack(self, archive: tarfile.TarFile) -> End:
        """Every member in order; what has another name or is no plain file is no backup of ours."""
        digest = ""
        for number, member in enumerate(archive):
            content = archive.extractfile(member) if member.isreg() else None
            blob = BLOB_NAME.fullmatch(member.name)
            if content is None or (number == 0) != (member.name == HEAD):
                break
            if member.name == HEAD:
                self._check_head(self._value(content, Head))
            elif blob:
                self._add_blob(content, blob[1], member.size)
            elif member.name == DATABASE:
                digest = self._add_database(content)
            elif member.name == END:
                return self._checked_end(self._value(content, End), digest)
            else:
                break
        raise not_a_backup(self._path, "it is no backup of Thaw, or not a whole one")

    def _value(self, content: IO[bytes], kind: type[Value]) -> Value:
        try:
            return kind.model_validate_json(content.read(MAX_JSON_BYTES))
        except ValidationError as error:
            raise not_a_backup(self._path, "what it says about itself cannot be read") from error

    def _check_head(self, head: Head) -> None:
        if head.format != FORMAT:
            why = f"it has format {head.format}, of Thaw {head.version}; this version reads format {FORMAT}"
            raise not_a_backup(self._path, why)

    def _checked_end(self, end: End, digest: str) -> End:
        if end.database_sha256 != digest:
            raise not_a_backup(self._path, "its database was damaged since")
        if not is_known(end.revision):
            why = f"its database is at revision {end.revision}, which only a later version of Thaw knows"
            raise not_a_backup(self._path, why)
        return end

    def _add_blob(self, content: IO[bytes], sha256: str, size: int) -> None:
        with self._store.writer(max_bytes=size) as writer:
            for chunk in _chunks(content):
                writer.write(chunk)
            found = writer.commit()
        self._bytes += size
        if found.sha256 == sha256:
            self._whole.add(sha256)
        else:
            self._damaged.add(found.sha256)

    def _add_database(self, content: IO[bytes]) -> str:
        digest = hashlib.sha256()
        with (self._partial / DATABASE).open("xb") as file:
            for chunk in _chunks(content):
                digest.update(chunk)
                self._bytes += file.write(chunk)
            os.fchmod(file.fileno(), 0o600)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _check(self, end: End) -> list[str]:
        """Whether the database is sound and has its blobs; those that were lost when it was backed up."""
        for sha256 in self._damaged - self._whole:
            self._store.remove(sha256)
        db = Database(f"sqlite:///{self._partial / DATABASE}")
        try:
            snapshot.check(db)
            upgrade(db)
            with db.read() as session:
                needed = blobs.referred(session).keys()
        finally:
            db.close()
        lacking = needed - self._whole - set(end.lost)
        if lacking:
            why = f"{len(lacking)} of its {len(needed)} blobs were damaged since, or are missing"
            raise not_a_backup(self._path, why)
        return sorted(needed & set(end.lost))


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(CHUNK_BYTES):
        yield chunk
