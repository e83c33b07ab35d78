"""A file that holds a secret: readable by its owner only, there in full or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.storage.durable import sync_folder

OWNER_ONLY = 0o600


def read_or_create(path: Path, secret: str) -> str:
    """The secret in the file; if there is none, `secret`, which is then in it. Of several processes one creates it."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        pass
    with _written(path, secret) as temporary:
        try:
            # Unlike a rename, a link never replaces a file that somebody else has made meanwhile.
            path.hardlink_to(temporary)
        except FileExistsError:
            return path.read_text(encoding="utf-8").strip()
    sync_folder(path.parent)
    return secret


def replace(path: Path, secret: str) -> None:
    """Put `secret` into the file."""
    if path.exists() and path.read_text(encoding="utf-8").strip() == secret:
        return
    with _written(path, secret) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def _written(path: Path, secret: str) -> Iterator[Path]:
    """A file beside `path` that holds the secret, synced; removed at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
