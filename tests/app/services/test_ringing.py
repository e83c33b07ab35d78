"""Ringing when the database goes away right after a commit: what was done is done, and somebody rings later."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.services import idempotency, jobs
from app.services.context import Services
from app.services.idempotency import StoredAnswer
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.tables import JobRow

ANSWER = StoredAnswer(status=201, headers={}, body="{}")
Transactions = Callable[[], AbstractContextManager[Session]]


def _away() -> AbstractContextManager[Session]:
    statement = "SELECT"
    raise OperationalError(statement, {}, Exception("the server closed the connection"))


def _away_after_the_first(begin: Transactions) -> Transactions:
    transactions = iter([begin])

    def begin_or_not() -> AbstractContextManager[Session]:
        return next(transactions, _away)()

    return begin_or_not


def test_a_job_is_there_though_nobody_can_tell_its_queue(
    world: Any, services: Services, bell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = world.request()
    bell.rings.clear()
    monkeypatch.setattr(services.db, "read", _away)
    job = jobs.submit(services, "default", request)
    monkeypatch.undo()
    assert bell.rings == []
    _rung_in_time(world, services, bell, job.id)


def test_a_job_is_there_though_neither_broker_nor_database_answer_then(
    world: Any, services: Services, bell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = world.request()
    bell.rings.clear()
    bell.answers = False
    monkeypatch.setattr(services.db, "begin", _away_after_the_first(services.db.begin))
    job = jobs.submit(services, "default", request)
    monkeypatch.undo()
    bell.answers = True
    _rung_in_time(world, services, bell, job.id)


def test_a_request_with_a_key_is_answered_though_nobody_can_tell_the_queue(
    world: Any, services: Services, bell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, joined, made = world.request(), idempotency.joined(services), []
    bell.rings.clear()

    def make() -> StoredAnswer:
        made.append(jobs.submit(joined, "default", request).id)
        return ANSWER

    assert idempotency.begin(services, "default", key="k", fingerprint="f") is None
    monkeypatch.setattr(services.db, "read", _away)
    assert idempotency.once(joined, "default", key="k", make=make) == ANSWER
    monkeypatch.undo()
    assert idempotency.begin(services, "default", key="k", fingerprint="f") == ANSWER
    _rung_in_time(world, services, bell, *made)


def _rung_in_time(world: Any, services: Services, bell: Any, job_id: str) -> None:
    world.set(JobRow, job_id, rung_at=now() - services.settings.ring_again_seconds - 1)
    sweep(services)
    assert bell.rings == [("train", job_id, "cpu")]
