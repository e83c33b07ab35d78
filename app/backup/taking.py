"""Taking a backup while the service runs.

copy the database -> add the blobs that it refers to -> was one gone? once more -> end -> sync -> the final name

Where jobs keep checkpoints faster than the database is copied, each copy refers to some that are gone by then. Those
that the database itself no longer refers to were superseded. The rest is lost, also what somebody deleted since the
last copy.
"""

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.backup.archive import BLOBS, DATABASE, END, FORMAT, HEAD, End, Head, Summary
from app.domain.errors import ConflictError, NotFoundError, PlatformError
from app.services import context
from app.services.context import Services
from app.settings import Settings
from app.storage import blobs, snapshot
from app.storage.artifacts import CHUNK_BYTES
from app.storage.database import Database, pending, schema_of, time_of
from app.storage.durable import sync_folder
from app.storage.spool import out_of_room

ROUNDS = 5
"""How often the database is copied at most, to have one of which nothing was deleted meanwhile."""
OWNER_ONLY = 0o600


def take(settings: Settings, path: Path, *, replace: bool = False) -> Summary:
    """Write a backup of the SQLite database and the artifact store to `path`; there in full or not at all.

    Raises `NotFoundError` where there is no database, `ConflictError` if `path` exists, if the database is no
    SQLite or has another version's tables, `StorageFullError`, and `PlatformError` if the database is damaged.
    """
    _refuse_existing(path, replace=replace)
    with out_of_room(), snapshot.sqlite_refusals():
        return _take(settings, path, replace=replace)


def _take(settings: Settings, path: Path, *, replace: bool) -> Summary:
    services = _open(settings)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            partial = Path(folder) / "partial"
            summary = _write(services, partial, Path(folder), final=path)
            _refuse_existing(path, replace=replace)
            partial.replace(path)
            sync_folder(path.parent)
        return summary
    finally:
        services.db.close()


def _refuse_existing(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        message = f"{path} exists already. Choose another name, or say --force to replace it."
        raise ConflictError(message)
    if not path.parent.is_dir():
        message = f"There is no folder {path.parent}. Make it, or choose another one."
        raise NotFoundError(message)


def _open(settings: Settings) -> Services:
    if settings.database_url is None and not (settings.data_dir / DATABASE).is_file():
        message = f"There is no database in {settings.data_dir}. Name the folder that the service uses: --data-dir."
        raise NotFoundError(message)
    services = context.build(settings)
    try:
        _refuse_unfit(services.db)
    except BaseException:
        services.db.close()
        raise
    return services


def _refuse_unfit(db: Database) -> None:
    snapshot.require_sqlite(db)
    with db.read() as session:
        missing = pending(session)
    if missing:
        message = f"This cannot be backed up: {missing}. Start this version on it once, or back it up with its own."
        raise ConflictError(message)


def _write(services: Services, partial: Path, folder: Path, *, final: Path) -> Summary:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.copybufsize = CHUNK_BYTES  # type: ignore[attr-defined]  # typeshed lacks it
            summary = _Taking(services, archive, folder).run(final)
        file.flush()
        os.fsync(file.fileno())
    return summary


class _Taking:
    """One backup on its way into an archive."""

    def __init__(self, services: Services, archive: tarfile.TarFile, folder: Path) -> None:
        self._services = services
        self._archive = archive
        self._folder = folder
        self._written: set[str] = set()
        self._damaged: set[str] = set()
        self._bytes = 0

    def run(self, final: Path) -> Summary:
        """Write everything."""
        with self._services.db.read() as session:
            created_at = time_of(session)
        self._add_value(HEAD, Head(format=FORMAT, version=version("thaw"), created_at=created_at))
        copy, gone = self._copied_with_blobs()
        missed = self._missed(copy, gone) if gone else gone
        lost, superseded = sorted(missed | self._damaged), sorted(gone - missed)
        self._add_end(copy, lost=lost, superseded=superseded)
        return Summary(path=str(final), blobs=len(self._written), bytes=self._bytes, lost=lost, superseded=superseded)

    def _missed(self, copy: Path, gone: set[str]) -> set[str]:
        """Of what is gone, all but the checkpoints that the database itself has no longer."""
        with _reading(copy) as session:
            irreplaceable = blobs.irreplaceable(session)
        with self._services.db.read() as session:
            return gone & (irreplaceable | blobs.referred(session).keys())

    def _copied_with_blobs(self) -> tuple[Path, set[str]]:
        """A copy of the database, and those of its blobs that the store does not have; the others are written."""
        before: set[str] | None = None
        copy = self._folder / "copy.db"
        for _ in range(ROUNDS):
            copy.unlink(missing_ok=True)
            snapshot.copy(self._services.db, copy)
            gone = {sha256 for sha256, size in self._needed(copy).items() if not self._add_blob(sha256, size)}
            if not gone or gone == before:
                break  # the same again: nobody deletes them meanwhile
            before = gone
        return copy, gone

    def _needed(self, copy: Path) -> dict[str, int]:
        with _reading(copy) as session:
            found = blobs.referred(session)
        return {sha256: found[sha256] for sha256 in sorted(found.keys() - self._written)}

    def _add_blob(self, sha256: str, size: int) -> bool:
        """Whether it is there; one that is damaged is written as it is, and noted."""
        try:
            chunks = self._services.store.read(sha256)
            first = next(chunks, b"")  # the store opens it only now, and has it from now on
        except PlatformError:
            return False
        content = _Hashed(chain([first], chunks))
        self._add(BLOBS + sha256, content, size)
        self._written.add(sha256)
        if content.digest() != sha256:
            self._damaged.add(sha256)
        return True

    def _add_end(self, copy: Path, *, lost: list[str], superseded: list[str]) -> None:
        with _reading(copy) as session:
            revision = str(schema_of(session).at)
        with copy.open("rb") as file:
            content = _Hashed(iter(lambda: file.read(CHUNK_BYTES), b""))
            self._add(DATABASE, content, copy.stat().st_size)
        end = End(database_sha256=content.digest(), revision=revision, lost=lost, superseded=superseded)
        self._add_value(END, end)

    def _add_value(self, name: str, value: BaseModel) -> None:
        content = value.model_dump_json().encode()
        self._archive.addfile(_member(name, len(content)), io.BytesIO(content))

    def _add(self, name: str, content: "_Hashed", size: int) -> None:
        self._archive.addfile(_member(name, size), content)
        self._bytes += size


@contextmanager
def _reading(copy: Path) -> Iterator[Session]:
    db = Database(f"sqlite:///{copy}")
    try:
        with db.read() as session:
            yield session
    finally:
        db.close()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, OWNER_ONLY
    return member


class _Hashed(io.RawIOBase):
    """Chunks as a file that is read once, with the digest of what was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes: an archive has told how many there are, so that more or fewer break it."""
        assert size >= 0
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        given, self._rest = self._rest[:size], self._rest[size:]
        # A blob that was cut short is damaged, and must not take the archive with it.
        self._hash.update(given)
        return given + bytes(size - len(given))

    def digest(self) -> str:
        """sha256 of what was read."""
        return self._hash.hexdigest()
