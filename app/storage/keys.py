"""API keys, as sha256 only."""

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.storage.database import insert_or_ignore, now
from app.storage.tables import ApiKeyRow


@dataclass(frozen=True)
class KeyRecord:
    """A key that is known."""

    project: str
    id: str
    sha256: str


def add(session: Session, project: str, *, identifier: str, name: str, sha256: str) -> bool:
    """Enter a key; `False`: it is known already."""
    values = {"project": project, "id": identifier, "name": name, "sha256": sha256, "created_at": now()}
    return insert_or_ignore(session, ApiKeyRow, values)


def find(session: Session, sha256: str) -> KeyRecord | None:
    """The key with this digest. It is what tells the project, so none is named."""
    row = session.scalars(select(ApiKeyRow).where(ApiKeyRow.sha256 == sha256)).one_or_none()
    return None if row is None else KeyRecord(project=row.project, id=row.id, sha256=row.sha256)


def remove_others(session: Session, project: str, *, name: str, sha256: str) -> None:
    """Revoke the keys of this name, except the one with this digest."""
    session.execute(
        delete(ApiKeyRow).where(ApiKeyRow.project == project, ApiKeyRow.name == name, ApiKeyRow.sha256 != sha256)
    )
