"""API keys, as sha256 only."""

from dataclasses import dataclass

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.storage.database import insert_or_ignore, now
from app.storage.tables import ApiKeyRow, ProjectRow


@dataclass(frozen=True)
class KeyRecord:
    """A key that is known."""

    project: str
    id: str
    name: str
    sha256: str
    created_at: float


def add(session: Session, project: str, *, identifier: str, name: str, sha256: str) -> bool:
    """Enter a key; `False`: it is known already."""
    values = {"project": project, "id": identifier, "name": name, "sha256": sha256, "created_at": now()}
    return insert_or_ignore(session, ApiKeyRow, values)


def find(session: Session, sha256: str) -> KeyRecord | None:
    """The key with this digest. It is what tells the project, so none is named."""
    row = session.scalars(select(ApiKeyRow).where(ApiKeyRow.sha256 == sha256)).one_or_none()
    return None if row is None else _record(row)


def called(session: Session, project: str, identifier_or_name: str) -> KeyRecord | None:
    """The key with this id or name; of several admin keys the oldest."""
    is_it = or_(ApiKeyRow.id == identifier_or_name, ApiKeyRow.name == identifier_or_name)
    statement = select(ApiKeyRow).where(ApiKeyRow.project == project, is_it)
    row = session.scalars(statement.order_by(ApiKeyRow.created_at, ApiKeyRow.id).limit(1)).one_or_none()
    return None if row is None else _record(row)


def listed(session: Session, project: str, *, limit: int | None) -> list[KeyRecord]:
    """The keys, the newest first; `None`: all."""
    statement = select(ApiKeyRow).where(ApiKeyRow.project == project)
    rows = session.scalars(statement.order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id.desc()).limit(limit))
    return [_record(row) for row in rows]


def hold_names(session: Session, project: str) -> None:
    """Whoever else asks for this waits until the transaction ends, so that a free name stays free until then.

    Nothing else waits: this lock goes with those that rows of the project take by their foreign key.
    """
    session.execute(select(ProjectRow.id).where(ProjectRow.id == project).with_for_update(key_share=True))


def rename(session: Session, project: str, *, sha256: str, name: str) -> None:
    """Give the key with this digest another name."""
    renamed = update(ApiKeyRow).where(ApiKeyRow.project == project, ApiKeyRow.sha256 == sha256, ApiKeyRow.name != name)
    session.execute(renamed.values(name=name))


def remove(session: Session, project: str, identifier: str) -> bool:
    """Revoke a key; `False`: it is gone already."""
    removed = delete(ApiKeyRow).where(ApiKeyRow.project == project, ApiKeyRow.id == identifier)
    return session.scalars(removed.returning(ApiKeyRow.id)).one_or_none() is not None


def remove_others(session: Session, project: str, *, name: str, sha256: str) -> None:
    """Revoke the keys of this name, except the one with this digest."""
    session.execute(
        delete(ApiKeyRow).where(ApiKeyRow.project == project, ApiKeyRow.name == name, ApiKeyRow.sha256 != sha256)
    )


def _record(row: ApiKeyRow) -> KeyRecord:
    return KeyRecord(project=row.project, id=row.id, name=row.name, sha256=row.sha256, created_at=row.created_at)
