"""The database's schema, upgraded on purpose: what `thaw db` calls, and what migrations of a release begin with.

thaw db current     where the schema stands
thaw db upgrade     bring it to this version's; once, before processes of this version start
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from app.domain.errors import ServiceUnavailableError, ThawError
from app.settings import Settings
from app.storage.database import NAMES, Database, describe, head, lacks_file, said, schema_of
from app.storage.database import upgrade as upgrade_database

__all__ = ["SchemaState", "ThawError", "current", "upgrade"]


@dataclass(frozen=True)
class SchemaState:
    """Which database it is, and where its schema stands."""

    database: str
    """Its URL, without a password."""
    server: str
    """`PostgreSQL 17.2`"""
    revision: str | None
    """`None`: there is no schema yet."""
    needed: str
    """What this version of Thaw needs."""
    missing: str | None
    """What is wrong, in a sentence; `None` if nothing is."""


def current(settings: Settings) -> SchemaState:
    """Where the schema stands; of an SQLite without a file, which is not made. Raises `ServiceUnavailableError`."""
    url = settings.resolved_database_url()
    if lacks_file(url):
        return _without_file(url)
    with _opened(settings) as db:
        return _state(db)


def upgrade(settings: Settings) -> tuple[SchemaState, SchemaState]:
    """Bring the schema to this version's: the states before and after. Others that do the same wait.

    Raises `ServiceUnavailableError`; `MisconfiguredError` for a schema of a newer Thaw, which stays as it is.
    """
    with _opened(settings) as db:
        before = _state(db)
        upgrade_database(db)
        return before, _state(db)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    db = Database(settings.resolved_database_url())
    try:
        yield db
    except DBAPIError as error:
        advice = "does not answer. Start it, or set THAW_DATABASE_URL to where it is."
        if not isinstance(error, OperationalError):
            advice = "cannot be used. Make sure that THAW_DATABASE_URL names Thaw's, and of the user's rights there."
        message = f"The database at {_shown(db)} {advice} Its driver says: {said(error)}"
        raise ServiceUnavailableError(message) from error
    finally:
        db.close()


def _state(db: Database) -> SchemaState:
    with db.read() as session:
        schema, server = schema_of(session), describe(session)
    return SchemaState(
        database=_shown(db), server=server, revision=schema.at, needed=schema.head, missing=schema.missing
    )


def _without_file(url: str) -> SchemaState:
    needed, shown = head(), make_url(url).render_as_string(hide_password=True)
    missing = f"there is no such file yet; this version of Thaw needs revision {needed}"
    return SchemaState(database=shown, server=NAMES["sqlite"], revision=None, needed=needed, missing=missing)


def _shown(db: Database) -> str:
    return db.engine.url.render_as_string(hide_password=True)
