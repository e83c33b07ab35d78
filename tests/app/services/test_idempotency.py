"""Idempotency-Keys: one answer for each, whoever dies on the way."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.errors import IdempotencyInFlightError, IdempotencyMismatchError
from app.services import idempotency, jobs
from app.services.context import Services
from app.services.idempotency import StoredAnswer
from app.services.ringing import Hint, ring
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.tables import IdempotencyRow, JobRow, ProjectRow

ANSWER = StoredAnswer(status=201, headers={"Location": "/v1/models/m"}, body='{"id": "m"}')


def test_the_same_request_gets_the_first_answer_again(services: Services) -> None:
    assert _begin(services) is None
    _answer(services, ANSWER)
    assert _begin(services) == ANSWER
    assert _begin(services) == ANSWER


def test_another_request_with_the_same_key_is_refused(services: Services) -> None:
    _begin(services)
    with pytest.raises(IdempotencyMismatchError):
        _begin(services, fingerprint="other")
    _answer(services, ANSWER)
    with pytest.raises(IdempotencyMismatchError):
        _begin(services, fingerprint="other")


def test_a_request_that_is_being_answered_is_not_begun_again(services: Services) -> None:
    _begin(services)
    with pytest.raises(IdempotencyInFlightError):
        _begin(services)


@pytest.mark.parametrize(("age", "patience"), [(0, 1), (3, 3), (20, 20), (50, 10), (59.9, 1)])
def test_whoever_asks_meanwhile_is_told_to_wait_as_long_as_it_has_taken_already(
    services: Services, age: float, patience: int
) -> None:
    _begin(services)
    with services.db.begin() as session:
        session.execute(update(IdempotencyRow).values(created_at=now() - age))
    with pytest.raises(IdempotencyInFlightError) as caught:
        _begin(services)
    assert abs(caught.value.retry_after_seconds - patience) <= 1  # time goes on meanwhile


def test_a_key_is_free_again_when_its_request_made_nothing(services: Services) -> None:
    _begin(services)
    idempotency.forget(services, "default", key="k")
    assert _begin(services, fingerprint="other") is None


def test_a_key_that_has_its_answer_is_not_forgotten(services: Services) -> None:
    _begin(services)
    _answer(services, ANSWER)
    idempotency.forget(services, "default", key="k")
    assert _begin(services) == ANSWER


def test_the_key_of_a_process_that_died_is_taken_over_by_one(services: Services) -> None:
    _begin(services)
    with services.db.begin() as session:
        session.execute(update(IdempotencyRow).values(created_at=now() - 61))
    with ThreadPoolExecutor(4) as threads:
        outcomes = sorted(threads.map(lambda _: _outcome(services), range(4)))
    assert outcomes == ["go on", "in flight", "in flight", "in flight"]


def test_of_many_requests_at_once_one_goes_on(services: Services) -> None:
    with ThreadPoolExecutor(8) as threads:
        outcomes = sorted(threads.map(lambda _: _outcome(services), range(8)))
    assert outcomes == ["go on", *["in flight"] * 7]


def test_keys_of_two_projects_have_nothing_to_do_with_each_other(services: Services) -> None:
    with services.db.begin() as session:
        session.add(ProjectRow(id="another", created_at=0))
    assert _begin(services) is None
    assert idempotency.begin(services, "another", key="k", fingerprint="g") is None


def test_of_two_that_make_the_same_the_later_one_makes_nothing(services: Services) -> None:
    """One took so long that its key was taken over."""
    _begin(services)
    _answer(services, ANSWER)
    late = idempotency.joined(services)

    def make() -> StoredAnswer:
        with late.db.begin() as session:
            session.add(ProjectRow(id="made", created_at=0))
        return ANSWER

    with pytest.raises(IdempotencyInFlightError):
        idempotency.once(late, "default", key="k", make=make)
    with services.db.read() as session:
        assert session.get(ProjectRow, "made") is None


def test_workers_hear_of_what_was_made_after_the_commit(services: Services, bell: Any) -> None:
    _begin(services)
    joined = idempotency.joined(services)

    def make() -> StoredAnswer:
        ring(joined, [Hint(JobRow, "default", "ftjob-1")])
        assert bell.rings == []
        return ANSWER

    idempotency.once(joined, "default", key="k", make=make)
    assert bell.rings == [("train", "ftjob-1", "cpu")]


def test_a_bell_that_nobody_heard_is_rung_again_soon(world: Any, services: Services, bell: Any) -> None:
    _begin(services)
    joined, bell.answers = idempotency.joined(services), False
    request = world.request()

    def make() -> StoredAnswer:
        jobs.submit(joined, "default", request)
        return ANSWER

    idempotency.once(joined, "default", key="k", make=make)
    bell.answers = True
    sweep(services)
    assert [task for task, *_ in bell.rings] == ["train"]


def _answer(services: Services, answer: StoredAnswer) -> None:
    idempotency.once(idempotency.joined(services), "default", key="k", make=lambda: answer)


def _begin(services: Services, *, fingerprint: str = "f") -> StoredAnswer | None:
    return idempotency.begin(services, "default", key="k", fingerprint=fingerprint)


def _outcome(services: Services) -> str:
    try:
        return "go on" if _begin(services) is None else "answered"
    except IdempotencyInFlightError:
        return "in flight"
