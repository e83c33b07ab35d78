"""What the database says about itself, for `thaw doctor`; whether it can be written, for `/readyz`, too."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.storage.database import Database, describe, has_rare_fault


@dataclass(frozen=True)
class Inspected:
    """How the database keeps what it is given."""

    described: str
    rare_fault: bool
    """It is an SQLite that may damage its WAL."""
    durability: dict[str, str]
    """SQLite: `journal_mode`; PostgreSQL: `fsync`, `full_page_writes`, `synchronous_commit`."""
    lacking: list[str]
    """Those of them that may lose committed rows, or let writers and readers block each other."""


_EXPECTED = {
    "sqlite": {"journal_mode": {"wal"}},
    "postgresql": {
        "fsync": {"on"},
        "full_page_writes": {"on"},
        "synchronous_commit": {"on", "remote_apply", "remote_write", "local"},
    },
}


def inspect(session: Session) -> Inspected:
    """Ask it."""
    dialect = session.connection().dialect.name
    ask = "PRAGMA" if dialect == "sqlite" else "SHOW"
    expected = _EXPECTED[dialect]
    found = {name: str(session.execute(text(f"{ask} {name}")).scalar_one()) for name in expected}
    return Inspected(
        described=describe(session),
        rare_fault=has_rare_fault(session),
        durability=found,
        lacking=[name for name, value in found.items() if value not in expected[name]],
    )


@dataclass(frozen=True)
class ReadOnly:
    """A database that this process cannot write."""

    why: str
    advice: str
    """What to do."""


def read_only(db: Database) -> ReadOnly | None:
    """`None`: it can be written. Takes no lock, and waits for no writer."""
    if db.engine.dialect.name == "sqlite":
        return _read_only_file(_file_of(db))
    with db.read() as session:
        if session.execute(text("SHOW transaction_read_only")).scalar_one() == "off":
            return None
        standby = session.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
    if standby:
        return ReadOnly("it is a standby", "Connect to the primary: THAW_DATABASE_URL.")
    return ReadOnly("default_transaction_read_only is on", "Set it to off for the user and the database.")


def free_bytes(db: Database) -> int | None:
    """Room on the disk of SQLite's file; `None`: a server, and only itself sees its disk."""
    return shutil.disk_usage(_file_of(db).parent).free if db.engine.dialect.name == "sqlite" else None


def try_writing(db: Database) -> None:
    """Begin to write, and on PostgreSQL write: 100 kB for a table of this transaction, and its names to the log.

    Raises SQLAlchemy's errors, as with a full disk. A user who may make no temporary tables writes nothing.
    """
    with db.begin() as session:  # on SQLite, only one that may write begins
        if db.engine.dialect.name == "postgresql" and session.execute(text(_MAY_TRY)).scalar_one():
            session.execute(text(_TRY))


_MAY_TRY = "SELECT has_database_privilege(current_database(), 'TEMP')"
_TRY = "CREATE TEMPORARY TABLE thaw_probe ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 100)"


def _file_of(db: Database) -> Path:
    """SQLite's file. Where the path is a link, it writes beside what that leads to (https://sqlite.org/wal.html)."""
    return Path(str(db.engine.url.database)).resolve()


def _read_only_file(path: Path) -> ReadOnly | None:
    """SQLite writes to the file, to those beside it, and to the folder, where it makes and removes them."""
    beside = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    for needed in (path.parent, path, *filter(Path.exists, beside)):
        if not os.access(needed, os.W_OK, effective_ids=True):
            advice = "Let the user that runs Thaw write there; if it may, the disk is mounted read-only."
            return ReadOnly(f"{needed} cannot be written", advice)
    return None
