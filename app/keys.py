"""API keys, made and revoked beside the service: what `thaw keys` calls, on a machine with the service's settings.

create, listed, revoke    straight in the database, whether the service runs or not
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from app import schema
from app.domain.errors import ConflictError, InvalidRequestError, NotFoundError, ServiceUnavailableError, ThawError
from app.services import keys
from app.settings import Settings
from app.storage.database import Database, lacks_file, said
from app.storage.keys import KeyRecord

__all__ = ["InvalidRequestError", "KeyRecord", "ThawError", "create", "listed", "revoke"]


def create(settings: Settings, name: str) -> tuple[KeyRecord, str]:
    """Make a key; with it what nobody can tell again: the key itself. Raises as `app.services.keys.create` does.

    All three raise `NotFoundError` where there is no database, `ConflictError` where it has another version's tables,
    and `ServiceUnavailableError` where it does not answer or takes no writes.
    """
    with _opened(settings) as db:
        return keys.create(db, name)


def listed(settings: Settings, *, limit: int | None) -> list[KeyRecord]:
    """All keys, or so many, the newest first."""
    with _opened(settings) as db:
        return keys.listed(db, limit=limit)


def revoke(settings: Settings, identifier_or_name: str) -> KeyRecord:
    """Revoke a key, from the next request on. Raises as `app.services.keys.revoke` does."""
    with _opened(settings) as db:
        return keys.revoke(db, identifier_or_name)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """The service's database, as it is: a folder or schema that was not meant is left alone."""
    url = settings.resolved_database_url()
    if lacks_file(url):
        message = (
            f"There is no database {url}. Name the folder that the service uses, with --data-dir or THAW_DATA_DIR, or "
            "its THAW_DATABASE_URL; a new service makes its database when it starts."
        )
        raise NotFoundError(message)
    state = schema.current(settings)
    if state.missing:
        message = (
            f"The API keys of {state.database} cannot be reached: {state.missing}. Use the service's own version of "
            "Thaw, or start this one on it first (PostgreSQL: `thaw db upgrade`)."
        )
        raise ConflictError(message)
    db = Database(url)
    try:
        yield db
    except DBAPIError as error:
        message = f"The database at {state.database} refused. `thaw doctor` examines it. Its driver says: {said(error)}"
        raise ServiceUnavailableError(message) from error
    finally:
        db.close()
