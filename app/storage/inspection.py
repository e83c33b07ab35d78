"""What the database says about itself, for `thaw doctor`."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.storage.database import describe, has_rare_fault


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


def is_read_only(session: Session) -> bool:
    """Whether this transaction, which was begun to write, may not. SQLite says so when it begins, by an error."""
    connection = session.connection()
    return connection.dialect.name == "postgresql" and (
        connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
    )
