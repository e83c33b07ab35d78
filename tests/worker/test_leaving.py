"""A worker that is asked to stop gives back what it has in time and for free, whatever it is busy with."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from app.domain.dataset import DatasetOptions
from app.domain.errors import ServiceUnavailableError
from app.domain.model import ModelOptions
from app.services import datasets, history, jobs, models
from app.services.context import DEFAULT_PROJECT
from app.storage.paging import PageQuery
from app.storage.tables import DatasetRow, JobRow, ModelRow
from worker import attempt
from worker.leaving import Stopping
from worker.processes import ProcessNotStartedError

pytestmark = pytest.mark.service

Shop = Any
Eventually = Callable[..., float]


class Transfer:
    """Takes the place of a method of the store: it lasts until the test ends it, or somebody cuts it short."""

    def __init__(self) -> None:
        self.began, self.over = threading.Event(), threading.Event()
        self.looks = True
        """Whether it can be cut short."""

    def __call__(self, *_: object, check: Callable[[], None] = lambda: None) -> None:
        self.began.set()
        while not self.over.wait(0.01):
            if self.looks:
                check()
        message = "The test is over."
        raise ServiceUnavailableError(message)


@pytest.fixture
def transfer() -> Iterator[Transfer]:
    endless = Transfer()
    yield endless
    endless.over.set()


def _make(shop: Shop, what: str) -> tuple[Any, str, Callable[[str], None]]:
    """Something that waits for a worker: its table, its id, and who takes it."""
    if what == "job":
        return JobRow, shop.submit("succeed"), shop.supervisor.train
    if what == "model":
        file = shop.upload("register.keras")
        model = models.register(shop.services, DEFAULT_PROJECT, file_id=file.id, name=None, options=ModelOptions())
        return ModelRow, model.id, shop.supervisor.register
    file = shop.upload("validate.npz")
    made = datasets.create(shop.services, DEFAULT_PROJECT, file_id=file.id, name=None, options=DatasetOptions())
    return DatasetRow, made.id, shop.supervisor.validate


def _begin(work: Callable[[str], None], identifier: str) -> threading.Thread:
    thread = threading.Thread(target=work, args=(identifier,))
    thread.start()
    return thread


def _given_back_for_free(shop: Shop, table: Any, identifier: str) -> bool:
    with shop.services.db.read() as session:
        row = session.get(table, identifier)
        return (row.status, row.attempt, row.lease_expires_at, row.lost_attempts) == (table.waiting, 1, None, 0)


@pytest.mark.parametrize("what", ["job", "model", "dataset"])
def test_what_is_being_fetched_is_given_back_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, transfer: Transfer, what: str
) -> None:
    monkeypatch.setattr(shop.services.store, "fetch", transfer)
    table, identifier, work = _make(shop, what)
    thread = _begin(work, identifier)
    assert transfer.began.wait(30)
    shop.supervisor.stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    assert _given_back_for_free(shop, table, identifier)


def test_a_job_that_is_to_pause_while_its_inputs_are_fetched_starts_no_process(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, transfer: Transfer
) -> None:
    monkeypatch.setattr(shop.services.store, "fetch", transfer)
    monkeypatch.setattr(shop.supervisor.launcher, "start", lambda _: pytest.fail("there is nothing to start it for"))
    table, job_id, work = _make(shop, "job")
    thread = _begin(work, job_id)
    assert transfer.began.wait(30)
    jobs.request_pause(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(10)
    assert not thread.is_alive()
    with shop.services.db.read() as session:
        row = session.get(table, job_id)
        assert (row.status, row.attempt, row.lease_expires_at, row.lost_attempts) == ("paused", 1, None, 0)


@pytest.mark.parametrize("hurry", [False, True])
def test_results_on_their_way_are_given_a_moment_unless_somebody_hurries(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, transfer: Transfer, *, hurry: bool
) -> None:
    monkeypatch.setattr(attempt, "_UPLOADS_STOP_SECONDS", 600.0 if hurry else 0.5)
    table, identifier, work = _make(shop, "dataset")
    monkeypatch.setattr(shop.services.store, "put_file", transfer)
    thread = _begin(work, identifier)
    assert transfer.began.wait(30)
    asked = time.monotonic()
    shop.supervisor.stopping.set()
    if hurry:
        shop.supervisor.hurrying.set()
    thread.join(10)
    assert not thread.is_alive()
    assert hurry or time.monotonic() - asked >= 0.5
    assert _given_back_for_free(shop, table, identifier)


@pytest.mark.parametrize("then", ["stop", "cancel"])
def test_whoever_waits_for_the_last_checkpoint_of_a_pause_sees_what_comes_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, transfer: Transfer, then: str
) -> None:
    monkeypatch.setattr(attempt, "_UPLOADS_STOP_SECONDS", 0.0)
    monkeypatch.setattr(shop.services.store, "put_file", transfer)
    job_id, thread = shop.start("count")
    assert transfer.began.wait(30)
    jobs.request_pause(shop.services, DEFAULT_PROJECT, job_id)
    (running,) = shop.supervisor.running
    eventually(lambda: "ended_seconds" in running._seconds)  # its checkpoint is all that is waited for
    if then == "stop":
        shop.supervisor.stopping.set()
    else:
        jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(15)
    assert not thread.is_alive()
    assert shop.get(job_id).status == ("paused" if then == "stop" else "cancelled")
    assert history.checkpoints(shop.services, DEFAULT_PROJECT, job_id, PageQuery(limit=100)).items == []


@pytest.mark.parametrize("what", ["job", "model", "dataset"])
def test_what_hangs_is_given_back_by_the_last_resort_and_writes_nothing_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, transfer: Transfer, what: str
) -> None:
    transfer.looks = False
    table, identifier, work = _make(shop, what)
    with monkeypatch.context() as patch:
        patch.setattr(shop.services.store, "fetch", transfer)
        thread = _begin(work, identifier)
        assert transfer.began.wait(30)
        shop.supervisor.stopping.set()
        shop.supervisor.abandon()
        assert thread.is_alive(), "it hangs"
        assert _given_back_for_free(shop, table, identifier)
        transfer.over.set()
        thread.join(10)
    assert _given_back_for_free(shop, table, identifier)
    shop.supervisor.abandon()
    assert _given_back_for_free(shop, table, identifier), "nothing runs any more"


def test_the_last_resort_kills_what_does_not_end(shop: Shop) -> None:
    job_id, thread = shop.start("deaf")
    (running,) = shop.supervisor.running
    shop.supervisor.abandon()
    assert _given_back_for_free(shop, JobRow, job_id)
    thread.join(10)
    assert not thread.is_alive()
    assert running._child is None
    assert _given_back_for_free(shop, JobRow, job_id)


def test_what_cannot_be_killed_is_given_back_all_the_same(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killing waits while another process is being started, and a process may be closed at that moment."""
    job_id, thread = shop.start("deaf")
    (running,) = shop.supervisor.running
    given_back = []

    def closed() -> None:
        given_back.append(_given_back_for_free(shop, JobRow, job_id))
        message = "process object is closed"
        raise ValueError(message)

    with monkeypatch.context() as patch:
        patch.setattr(running._child, "kill", closed)
        shop.supervisor.abandon()
    assert given_back == [True]
    shop.supervisor.abandon()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(("stopping", "charged"), [(False, 1), (True, 0)])
@pytest.mark.parametrize("what", ["job", "model", "dataset"])
def test_a_process_that_cannot_be_started_costs_an_attempt_unless_the_worker_stops(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, what: str, charged: int, *, stopping: bool
) -> None:
    def refuse(_: object) -> NoReturn:
        if stopping:
            shop.supervisor.stopping.set()
        message = "The machine cannot start another process."
        raise ProcessNotStartedError(message)

    monkeypatch.setattr(shop.supervisor.launcher, "start", refuse)
    table, identifier, work = _make(shop, what)
    work(identifier)
    with shop.services.db.read() as session:
        row = session.get(table, identifier)
        assert (row.status, row.attempt, row.lost_attempts) == (table.waiting, 1, charged)


def test_asking_again_does_not_change_since_when_it_stops() -> None:
    stopping = Stopping()
    assert stopping.seconds == 0
    stopping.set()
    first = stopping._set_at
    stopping.set()
    assert stopping._set_at == first
    assert stopping.seconds > 0
