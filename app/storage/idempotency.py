"""Idempotency-Keys and the answers that they got."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, tuple_, update
from sqlalchemy.orm import Session

from app.storage.database import insert_or_ignore, now, time_of
from app.storage.tables import IdempotencyRow


@dataclass(frozen=True)
class Record:
    """A key that was used. `status` is `None` until there is an answer."""

    fingerprint: str
    status: int | None
    headers: dict[str, str]
    body: str
    age_seconds: float


def reserve(session: Session, project: str, *, key: str, fingerprint: str) -> bool:
    """Take a key for a request that is being answered; `False`: it is taken already."""
    values = {"project": project, "key": key, "fingerprint": fingerprint, "created_at": now()}
    return insert_or_ignore(session, IdempotencyRow, values)


def find(session: Session, project: str, key: str) -> Record | None:
    """What is known of a key."""
    statement = select(IdempotencyRow, now() - IdempotencyRow.created_at).where(*_one(project, key))
    found = session.execute(statement).one_or_none()
    if found is None:
        return None
    row, age_seconds = found
    return Record(row.fingerprint, row.status, row.headers or {}, row.body or "", age_seconds)


def take_over(session: Session, project: str, *, key: str, older_than_seconds: float) -> bool:
    """Take a key whose request was never answered; `False`: it was, or somebody else was first."""
    statement = (
        update(IdempotencyRow)
        .where(
            *_one(project, key),
            IdempotencyRow.status.is_(None),
            IdempotencyRow.created_at <= now() - older_than_seconds,
        )
        .values(created_at=now())
        .returning(IdempotencyRow.key)
    )
    return session.execute(statement.execution_options(synchronize_session=False)).one_or_none() is not None


def answer(session: Session, project: str, *, key: str, status: int, headers: dict[str, str], body: str) -> bool:
    """Keep the answer that a key got; `False`: it has one already, or is taken no more."""
    statement = (
        update(IdempotencyRow)
        .where(*_one(project, key), IdempotencyRow.status.is_(None))
        .values(status=status, headers=headers, body=body)
        .returning(IdempotencyRow.key)
    )
    return session.execute(statement.execution_options(synchronize_session=False)).one_or_none() is not None


def remove(session: Session, project: str, key: str) -> None:
    """Forget a key that got no answer."""
    session.execute(delete(IdempotencyRow).where(*_one(project, key), IdempotencyRow.status.is_(None)))


def remove_old(session: Session, *, older_than_seconds: float, limit: int) -> int:
    """Forget the oldest keys of all projects that have this age, and that nobody else forgets now; how many."""
    since = time_of(session) - older_than_seconds  # as a value: PostgreSQL would read all of them, by a moving clock
    old = (
        select(IdempotencyRow.project, IdempotencyRow.key)
        .where(IdempotencyRow.created_at <= since)
        .order_by(IdempotencyRow.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(IdempotencyRow).where(tuple_(IdempotencyRow.project, IdempotencyRow.key).in_(old))
    return len(session.execute(statement.returning(IdempotencyRow.key)).all())


def _one(project: str, key: str) -> list[ColumnElement[bool]]:
    return [IdempotencyRow.project == project, IdempotencyRow.key == key]
