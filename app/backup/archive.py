"""What stands in a backup's archive."""

import re
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from app.domain.errors import InvalidRequestError

HEAD, DATABASE, END, BLOBS = "thaw-backup.json", "thaw.db", "end.json", "blobs/"
FORMAT = 1
BLOB_NAME: Final = re.compile(r"blobs/([0-9a-f]{64})")
MAX_JSON_BYTES = 64 * 1024**2
"""`end.json` names lost blobs, of which there may be many; more than this is no backup."""


class Head(BaseModel):
    """The first member."""

    model_config = ConfigDict(frozen=True)

    format: int
    version: str
    """Of Thaw."""
    created_at: float
    """By the database's clock, in Unix seconds."""


class End(BaseModel):
    """The last member."""

    model_config = ConfigDict(frozen=True)

    database_sha256: str
    revision: str
    """Of the schema."""
    lost: list[str]
    """sha256 of blobs that the database refers to and that the store did not have (any longer), or had damaged."""
    superseded: list[str] = []
    """Likewise, of checkpoints that newer ones replaced since the database was copied."""


@dataclass(frozen=True)
class Summary:
    """What was backed up, or restored."""

    path: str
    blobs: int
    bytes: int
    """Of the blobs and the database."""
    lost: list[str]
    superseded: list[str]


def not_a_backup(path: object, why: str) -> InvalidRequestError:
    """The error for a file that cannot be restored."""
    return InvalidRequestError(f"{path} cannot be restored: {why}. Use another backup.")
