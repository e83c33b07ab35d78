"""Idempotency-Keys: the same request, sent again, gets the first answer again.

    begin     takes the key in a transaction of its own, so that a second request sees it at once
    once      does the work and keeps its answer, in one transaction
    forget    gives the key back: the request failed and made nothing

A process that dies between leaves the key taken, and nothing made; after a minute it may be taken over.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from app.domain.errors import IdempotencyInFlightError, IdempotencyMismatchError
from app.services.context import Services
from app.services.ringing import LateBell, ring
from app.storage import idempotency
from app.storage.database import OneTransaction
from app.storage.idempotency import Record

ABANDONED_SECONDS = 60.0
"""No request takes so long to make something; a key in flight for longer belongs to a process that died."""


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it was sent."""

    status: int
    headers: dict[str, str]
    body: str


def begin(services: Services, project: str, *, key: str, fingerprint: str) -> StoredAnswer | None:
    """Take the key; `None`: go on.

    Raises `IdempotencyMismatchError` if it was used for another request, `IdempotencyInFlightError` if the first
    one is still being answered.
    """
    with services.db.begin() as session:
        if idempotency.reserve(session, project, key=key, fingerprint=fingerprint):
            return None
        record = idempotency.find(session, project, key)
        if record is not None and record.fingerprint != fingerprint:
            message = "This Idempotency-Key was used with another request. Send the same body, or take a new key."
            raise IdempotencyMismatchError(message)
        answer = _answer(record)
        if answer is None and not idempotency.take_over(
            session, project, key=key, older_than_seconds=ABANDONED_SECONDS
        ):
            message = "The first request with this Idempotency-Key is still being answered. Try again in a moment."
            raise IdempotencyInFlightError(message, retry_after_seconds=_patience_seconds(record))
        return answer


def joined(services: Services) -> Services:
    """The same services, for one request: `once` makes one transaction of all that are begun on them."""
    return replace(services, db=OneTransaction(services.db), doorbell=LateBell(services.doorbell))


def once(services: Services, project: str, *, key: str, make: Callable[[], StoredAnswer]) -> StoredAnswer:
    """Make something on `joined` services, and keep the answer for whoever sends the same request again, for a day.

    Both or neither is committed, whenever the process dies; workers hear of it afterwards. Raises
    `IdempotencyInFlightError`, with nothing made, if it took so long that somebody else has answered meanwhile.
    """
    db, doorbell = services.db, services.doorbell
    assert isinstance(db, OneTransaction)
    assert isinstance(doorbell, LateBell)
    with doorbell.held() as held, db.held():
        answer = make()
        with db.begin() as session:
            if not _keep(session, project, key, answer):
                message = "Another request with this Idempotency-Key was faster. Try again to get its answer."
                raise IdempotencyInFlightError(message)
    ring(services, held)
    return answer


def _keep(session: Session, project: str, key: str, answer: StoredAnswer) -> bool:
    return idempotency.answer(session, project, key=key, status=answer.status, headers=answer.headers, body=answer.body)


def forget(services: Services, project: str, *, key: str) -> None:
    """Give a key back whose request made nothing."""
    with services.db.begin() as session:
        idempotency.remove(session, project, key)


def _patience_seconds(record: Record | None) -> int:
    """As long as the first request has taken already, and until its key may be taken over at most."""
    age = record.age_seconds if record else 0.0
    return max(1, math.ceil(min(age, ABANDONED_SECONDS - age)))


def _answer(record: Record | None) -> StoredAnswer | None:
    if record is None or record.status is None:
        return None
    return StoredAnswer(status=record.status, headers=record.headers, body=record.body)
