"""Workers, as they announce themselves. They serve all projects."""

from typing import Any

from sqlalchemy import Double, bindparam, delete, select, update
from sqlalchemy.orm import Session

from app.storage.database import insert_or_ignore, now
from app.storage.tables import WorkerRow

_SEEN = (
    select(WorkerRow.id, WorkerRow.capabilities)
    .where(WorkerRow.seen_at > now() - bindparam("seconds", type_=Double()))
    .order_by(WorkerRow.id)
    .limit(10_000)
)
"""Built once: whoever polls a queued job asks it."""


def announce(session: Session, *, identifier: str, capabilities: dict[str, Any]) -> None:
    """Note that this worker is alive, and what it can do."""
    values = {"seen_at": now(), "capabilities": capabilities}
    statement = update(WorkerRow).where(WorkerRow.id == identifier).values(values).returning(WorkerRow.id)
    if session.execute(statement.execution_options(synchronize_session=False)).one_or_none() is None:
        insert_or_ignore(session, WorkerRow, {"id": identifier, **values})


def seen_within(session: Session, seconds: float) -> list[tuple[str, dict[str, Any]]]:
    """Ids and capabilities of the workers that were heard of in the last `seconds`, at most 10,000."""
    found = session.execute(_SEEN, {"seconds": seconds})
    return [(row.id, row.capabilities) for row in found]


def remove_silent(session: Session, *, seconds: float) -> None:
    """Forget workers that were not heard of for so long."""
    session.execute(delete(WorkerRow).where(WorkerRow.seen_at <= now() - seconds))
