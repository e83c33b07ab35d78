"""API keys: `thaw_` and 256 random bits. The database has only their sha256.

At the first start an admin key is made and written to a file that its owner alone can read. Starting again finds
it there. If that file is lost, the next start makes another key; the lost one stays valid, as nobody can tell that
it is not in use. Setting `THAW_API_KEY` makes that one the only admin key: this is how others are revoked.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import AuthenticationError
from app.domain.ids import new_id
from app.services.context import DEFAULT_PROJECT, Services
from app.storage import keyfile, keys

PREFIX = "thaw_"
ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Who sent a request."""

    project: str
    key_id: str


def ensure_admin_key(services: Services) -> Path:
    """Make sure that there is an admin key, in its file and in the database; the file's path."""
    path, given = services.settings.api_key_file(), _given(services)
    if given is None:
        token = keyfile.read_or_create(path, PREFIX + secrets.token_urlsafe(32))
    else:
        token = given
        keyfile.replace(path, token)
    with services.db.begin() as session:
        keys.add(session, DEFAULT_PROJECT, identifier=new_id("key"), name=ADMIN, sha256=_digest(token))
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
        message = "This API key is not valid here. The admin key stands in the file that `thaw up` names."
        raise AuthenticationError(message)
    return Principal(project=found.project, key_id=found.id)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
