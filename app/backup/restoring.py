"""Restoring a backup into an empty data folder.

    hold the folder -> unpack and check into restore.partial -> artifacts, then thaw.db, under their names -> let go

Without `thaw.db` there is nothing to start on, so that half of a restore is never taken for a whole one: who is
killed in between leaves a folder that the next restore clears.

Only `thaw up` respects that the folder is held. Of an API or a worker that somebody starts on it meanwhile nothing is
overwritten and nothing taken away.
"""

import errno
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import make_url

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

    Raises `ConflictError` unless the folder is empty and stays so, and where the settings name another database or
    store than the folder's, `InvalidRequestError` for what is no whole backup or was damaged since, `StorageFullError`,
    and `PlatformError` for a database beyond use. The folder then has nothing of the backup.
    """
    target = settings.data_dir.resolve()
    _refuse_elsewhere(settings, target / DATABASE)
    with out_of_room(), snapshot.sqlite_refusals(), _held(target) as published:
        partial = target / PARTIAL
        partial.mkdir(mode=0o700)
        summary = _Restoring(path, partial).run(target)
        _publish(partial, target, published)
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _refuse_elsewhere(settings: Settings, path: Path) -> None:
    """A service with these settings must open what is restored: with another database, it has no use for the blobs."""
    if settings.artifacts_url:
        message = "A backup is restored into a folder; THAW_ARTIFACTS_URL names a bucket. Unset it, and copy the blobs."
        raise ConflictError(message)
    url = make_url(settings.database_url.get_secret_value()) if settings.database_url else None
    if url is None:
        return
    if url.get_backend_name() != "sqlite":
        message = (
            "A backup is restored into a folder, with SQLite; THAW_DATABASE_URL names a server. Unset it to restore "
            "this backup. A dump of pg_dump is restored with pg_restore."
        )
        raise ConflictError(message)
    if not url.database or Path(url.database).resolve() != path:
        message = (
            f"The database is restored as {path}; THAW_DATABASE_URL names {url.database or 'none that is kept'}. Unset "
            "it; whoever wants the database there moves that file after the restore, before anything starts."
        )
        raise ConflictError(message)


@contextmanager
def _held(target: Path) -> Iterator[list[str]]:
    """An empty folder, on which no `thaw up` starts meanwhile. Yields a list for the names that are published."""
    folder.make_private(target)
    _refuse_used(target)
    folder.make_private(target / RUN)
    published: list[str] = []
    with folder.held(target / RUN):
        _refuse_used(target)
        for left in (ARTIFACTS, PARTIAL):
            shutil.rmtree(target / left, ignore_errors=True)
        try:
            yield published
        except BaseException:
            _clear(target, published)
            raise


def _clear(target: Path, published: Sequence[str]) -> None:
    """Take away what was restored so far, the database first and `restore.partial`, which tells of a half, last."""
    if DATABASE in published:
        (target / DATABASE).unlink(missing_ok=True)
    # Whoever made a database just before ours was to appear may have stored blobs beside ours since.
    if ARTIFACTS in published and not (target / DATABASE).exists():
        shutil.rmtree(target / ARTIFACTS, ignore_errors=True)
    shutil.rmtree(target / PARTIAL, ignore_errors=True)
    (target / RUN / folder.LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # somebody's files are in it
        (target / RUN).rmdir()


def _refuse_used(target: Path) -> None:
    """Empty, or what a restore left that was killed."""
    names = {path.name for path in target.iterdir()}
    # Artifacts are moved out of `restore.partial`: while some are in there, those outside are somebody else's.
    left = {RUN, PARTIAL} if (target / PARTIAL / ARTIFACTS).exists() else {RUN, PARTIAL, ARTIFACTS}
    unfinished = PARTIAL in names and names <= left
    if names - {RUN} and not unfinished:
        message = (
            f"{target} is not empty: it has {_listed(names)}. A backup is restored into an empty folder: "
            "name another one with --data-dir, or move what is there away."
        )
        raise ConflictError(message)


def _publish(partial: Path, target: Path, published: list[str]) -> None:
    """Give artifacts and database their names, where nothing has these yet."""
    if (partial / f"{DATABASE}-wal").exists():
        message = "SQLite did not close the restored database in order. Try again."
        raise PlatformError(message, code="internal_error")
    appeared = {path.name for path in target.iterdir()} - {RUN, PARTIAL}
    if appeared:
        raise _in_use(target, appeared)
    try:
        (partial / ARTIFACTS).rename(target / ARTIFACTS)
        published.append(ARTIFACTS)
        sync_folder(target)
        # Unlike a rename, a link never takes the place of a file.
        (target / DATABASE).hardlink_to(partial / DATABASE)
        published.append(DATABASE)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        raise _in_use(target, {DATABASE if ARTIFACTS in published else ARTIFACTS}) from error
    (partial / DATABASE).unlink()
    sync_folder(target)


def _in_use(target: Path, appeared: AbstractSet[str]) -> ConflictError:
    return ConflictError(
        f"{target} got {_listed(appeared)} while the backup was unpacked: somebody started Thaw on it, or put "
        "something there. That is left as it is, and nothing was restored. Restore into another folder, or stop what "
        "runs there, move that away and try again."
    )


def _listed(names: AbstractSet[str]) -> str:
    return ", ".join(sorted(names)[:5])


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
        needed = self._check(end)
        lost, superseded = (sorted(needed & set(each)) for each in (end.lost, end.superseded))
        return Summary(path=str(target), blobs=len(self._whole), bytes=self._bytes, lost=lost, superseded=superseded)

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

    def _check(self, end: End) -> set[str]:
        """Whether the database is sound and has its blobs but for those that the backup lacks; what it refers to."""
        for sha256 in self._damaged - self._whole:
            self._store.remove(sha256)
        db = Database(f"sqlite:///{self._partial / DATABASE}")
        try:
            snapshot.check(db)
            upgrade(db)
            with db.read() as session:
                needed = set(blobs.referred(session))
        finally:
            db.close()
        lacking = needed - self._whole - {*end.lost, *end.superseded}
        if lacking:
            why = f"{len(lacking)} of its {len(needed)} blobs were damaged since, or are missing"
            raise not_a_backup(self._path, why)
        return needed


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(CHUNK_BYTES):
        yield chunk
