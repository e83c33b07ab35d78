"""Copies of a whole SQLite database, taken while others write to it.

SQLite's own backup interface copies all pages within one read of the source: the copy is the database as it was at
that moment, and in WAL mode nobody waits (https://sqlite.org/backup.html).
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from app.domain.errors import ConflictError, PlatformError
from app.storage.database import SQLITE_FULL, Database, sqlite_library
from app.storage.spool import no_room


def require_sqlite(db: Database) -> None:
    """Raises `ConflictError` for any other database."""
    if db.engine.dialect.name != "sqlite":
        message = (
            "This copies SQLite databases; the service uses another one. Back it up by its own means (pg_dump), and "
            "the artifact store before and after it."
        )
        raise ConflictError(message)


def copy(db: Database, path: Path) -> None:
    """Copy an SQLite database to a new file, checked and synced."""
    module: Any = db.engine.dialect.dbapi  # the very library that reads the source
    with closing(db.engine.raw_connection()) as source, closing(module.connect(path)) as target:
        driver: Any = source.driver_connection
        driver.backup(target)
        # One file, without a log beside it.
        target.execute("PRAGMA journal_mode = DELETE")
        _check(target)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check(db: Database) -> None:
    """Raises `PlatformError` (code `corrupt_database`) if an SQLite database is damaged."""
    with closing(db.engine.raw_connection()) as connection:
        _check(connection.driver_connection)


def _check(connection: Any) -> None:  # noqa: ANN401 (a DBAPI connection, which has no type of its own)
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise _damaged(said)


# === What SQLite says ===

_DAMAGED = ("database disk image is malformed", "file is not a database", "malformed database schema")
"""By their texts: not every library that brings SQLite tells the numbers."""


@contextmanager
def sqlite_refusals() -> Iterator[None]:
    """What SQLite says about a full disk, a damaged file or anything else, as an error of ours.

    Raises `StorageFullError` and `PlatformError` (codes `corrupt_database`, `database_error`).
    """
    try:
        yield
    except (DBAPIError, sqlite_library().DatabaseError) as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        if SQLITE_FULL in said:
            raise no_room() from error
        if said.startswith(_DAMAGED):
            raise _damaged(said) from error
        message = f"SQLite cannot go on: {said}. Check the disk and who may write there, then try again."
        raise PlatformError(message, code="database_error") from error


def _damaged(said: str) -> PlatformError:
    message = f"The database is damaged: {said}. Restore an older backup."
    return PlatformError(message, code="corrupt_database")
