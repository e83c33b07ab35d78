"""API keys: `thaw_` and 256 random bits. The database has only their sha256.

At the first start an admin key is made and written to a file that its owner alone can read. Starting again finds
it there. If that file is lost, the next start makes another key; the lost one stays valid, as nobody can tell that
it is not in use. Setting `THAW_API_KEY` makes that one the only admin key: this is how others are revoked.

Other keys have a name of their own, are made and revoked by people, and share the line of jobs with it. Each request
looks its key up, so that a revoked one opens nothing any more.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import AuthenticationError, ConflictError, InvalidRequestError, NotFoundError
from app.domain.ids import new_id
from app.services.context import DEFAULT_PROJECT, Services
from app.storage import keyfile, keys
from app.storage.database import Database
from app.storage.keys import KeyRecord

PREFIX = "thaw_"
ADMIN = "admin"
LONGEST_NAME = 64
ID_PREFIX = "key-"


@dataclass(frozen=True)
class Principal:
    """Who sent a request."""

    project: str
    key_id: str


def ensure_admin_key(services: Services) -> Path:
    """Make sure that there is an admin key, in its file and in the database; the file's path."""
    path, given = services.settings.api_key_file(), _given(services)
    if given is None:
        token = keyfile.read_or_create(path, _new_token())
    else:
        token = given
        keyfile.replace(path, token)
    with services.db.begin() as session:
        if not keys.add(session, DEFAULT_PROJECT, identifier=new_id("key"), name=ADMIN, sha256=_digest(token)):
            # A named key that is set now, too: revoking that name would lock everybody out.
            keys.rename(session, DEFAULT_PROJECT, sha256=_digest(token), name=ADMIN)
        if given is not None:
            keys.remove_others(session, DEFAULT_PROJECT, name=ADMIN, sha256=_digest(token))
    return path


def _given(services: Services) -> str | None:
    """The key that is set. An empty one is none: it would let in whoever sends none."""
    key = services.settings.api_key
    return (key.get_secret_value().strip() or None) if key else None


def authenticate(services: Services, token: str) -> Principal:
    """Who holds this key. Raises `AuthenticationError`, which does not repeat it."""
    digest = _digest(token)
    with services.db.read() as session:
        found = keys.find(session, digest)
    # The look-up is by a digest, of which an attacker chooses nothing useful; the comparison costs nothing either.
    if found is None or not hmac.compare_digest(found.sha256, digest):
        message = (
            "This API key is not valid here. The admin key stands in the file that `thaw up` names; `thaw keys create` "
            "makes others."
        )
        raise AuthenticationError(message)
    return Principal(project=found.project, key_id=found.id)


# === Named keys ===
# The database is all that they need: they are made beside the service, with no store and no broker.


def create(db: Database, name: str) -> tuple[KeyRecord, str]:
    """Make a key of this name: what is known of it, and the key itself, which nobody can tell again.

    Raises `InvalidRequestError` for what cannot be a name, `ConflictError` if another key has it.
    """
    _refuse_unfit(name)
    token = _new_token()
    with db.begin() as session:
        keys.hold_names(session, DEFAULT_PROJECT)
        if keys.called(session, DEFAULT_PROJECT, name):
            message = f"There is an API key named {name!r} already. Choose another name, or revoke that key first."
            raise ConflictError(message)
        keys.add(session, DEFAULT_PROJECT, identifier=new_id("key"), name=name, sha256=_digest(token))
        made = keys.find(session, _digest(token))
    assert made is not None
    return made, token


def listed(db: Database, *, limit: int | None) -> list[KeyRecord]:
    """All keys, the admin's too, the newest first; `limit`: so many at most."""
    with db.read() as session:
        return keys.listed(session, DEFAULT_PROJECT, limit=limit)


def revoke(db: Database, identifier_or_name: str) -> KeyRecord:
    """Revoke a named key, from the next request on; jobs that it sent go on.

    Raises `NotFoundError`, and `ConflictError` for an admin key: the next start would make it valid again from its
    file, and until then nobody might get in.
    """
    with db.begin() as session:
        found = keys.called(session, DEFAULT_PROJECT, identifier_or_name)
        if found is not None and found.name == ADMIN:
            message = (
                f"The API key {found.id} is an admin key, which its file would make valid again at the next start. To "
                "replace all admin keys by another one, set THAW_API_KEY to that and start the service."
            )
            raise ConflictError(message)
        if found is None or not keys.remove(session, DEFAULT_PROJECT, found.id):
            message = f"There is no API key with the id or name {identifier_or_name!r}. `thaw keys list` shows all."
            raise NotFoundError(message)
        return found


def _refuse_unfit(name: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        message = (
            f"The name of an API key has 1 to {LONGEST_NAME} printable characters and no space at its ends; received "
            f"{len(name)} characters: {name[:LONGEST_NAME]!r}."
        )
        raise InvalidRequestError(message, param="name")
    if name.casefold() == ADMIN or name.startswith(ID_PREFIX):
        message = (
            f"{name!r} cannot be the name of an API key: {ADMIN!r} is the service's own, and what begins with "
            f"{ID_PREFIX!r} is an id. Choose another name."
        )
        raise InvalidRequestError(message, param="name")


def _new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
