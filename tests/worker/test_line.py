"""What a hint makes a worker do: the best job there is, for as long as that may run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.again import ForkRequest
from app.domain.job import ForkedFrom, JobRequest
from app.domain.phases import Phase
from app.services import again, datasets, history, jobs, models
from app.services.context import DEFAULT_PROJECT
from app.storage.artifacts import go_on
from app.storage.database import time_of
from app.storage.paging import PageQuery
from worker import watch
from worker.child import Keep
from worker.processes import ChildProcess

pytestmark = pytest.mark.service

Shop = Any


def _submit(shop: Shop, behaviour: str, **changes: Any) -> str:
    (model,) = models.list_page(shop.services, DEFAULT_PROJECT, PageQuery(limit=1, order="asc")).items
    (dataset,) = datasets.list_page(shop.services, DEFAULT_PROJECT, PageQuery(limit=1, order="asc")).items
    schedule = [Phase(name=behaviour, epochs=1)]
    request = JobRequest(model=model.id, training_file=dataset.id, schedule=schedule, seed=1, **changes)
    return jobs.submit(shop.services, DEFAULT_PROJECT, request).id


def test_a_worker_that_is_rung_for_one_job_takes_a_more_urgent_one(shop: Shop) -> None:
    normal, urgent = _submit(shop, "succeed"), _submit(shop, "succeed", priority="high")
    shop.supervisor.train(normal)
    assert [shop.get(job).status for job in (normal, urgent)] == ["succeeded", "succeeded"]
    first, then = shop.get(urgent).finished_at, shop.get(normal).started_at
    assert first is not None
    assert then is not None
    assert first <= then, "the more urgent one goes first, and the other one needs no hint any more"
    for hint in (urgent, normal):
        shop.supervisor.train(hint)
    assert [shop.get(job).attempt.number for job in (normal, urgent)] == [1, 1]


@pytest.mark.parametrize(
    ("field", "code"), [("max_seconds", "time_budget_exceeded"), ("deadline_at", "deadline_exceeded")]
)
def test_a_job_that_takes_longer_than_it_may_is_ended_and_nothing_is_published(
    shop: Shop, field: str, code: str, clock: Any
) -> None:
    job_id = _submit(shop, "forever", **_an_hour(shop, field))
    _end_by_the_hour(shop.resume(job_id), clock)
    job = shop.get(job_id)
    assert job.error is not None
    assert (job.status, job.error.error_class, job.error.code) == ("failed", "budget", code)
    assert job.error.phase == "forever"
    assert (job.artifacts, job.result_model_id, job.report) == ([], None, None)
    assert shop.train("succeed").status == "succeeded", "the worker goes on"


def _an_hour(shop: Shop, field: str) -> dict[str, float]:
    with shop.services.db.read() as session:
        return {field: 3600.0 if field == "max_seconds" else time_of(session) + 3600}


def _end_by_the_hour(thread: threading.Thread, clock: Any) -> None:
    """Let its time be over."""
    clock.ahead = 3601.0
    thread.join(60)
    assert not thread.is_alive()


def test_a_job_whose_time_is_over_keeps_its_weights_and_can_be_forked_from_there(shop: Shop, clock: Any) -> None:
    job_id = _submit(shop, "count-on", max_seconds=3600)
    _end_by_the_hour(shop.resume(job_id), clock)
    job = shop.get(job_id)
    (kept,) = history.checkpoints(shop.services, DEFAULT_PROJECT, job_id, PageQuery()).items[:1]
    assert (kept.kind, kept.within, kept.metrics) == ("phase", "last", {})
    assert f"step {kept.step}, in phase 'count' are kept as '{kept.id}'" in job.error.message
    assert kept.artifact is not None
    assert b"".join(shop.services.store.read(kept.artifact.sha256)).decode() == f"weights of step {kept.step}"
    fork = again.fork(shop.services, DEFAULT_PROJECT, job_id, ForkRequest(max_seconds=60))
    assert fork.forked_from == ForkedFrom(job=job_id, checkpoint=kept.id)
    assert [(phase.name, phase.epochs) for phase in fork.spec.schedule] == [("count-on", 1)]


def test_the_time_that_it_takes_to_fetch_counts_too(shop: Shop, monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    fetch = shop.services.store.fetch

    def fetch_slowly(*where: Any, **given: Any) -> None:
        clock.ahead = 3000.0
        fetch(*where, **given)

    monkeypatch.setattr(shop.services.store, "fetch", fetch_slowly)
    job_id = _submit(shop, "forever", max_seconds=3600)
    thread = shop.resume(job_id)
    assert clock.ahead == 3000.0
    _end_by_the_hour(thread, clock)  # its process does not have it all for itself
    assert shop.get(job_id).error.code == "time_budget_exceeded"


def _endless(check: Any) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        check()
        time.sleep(0.01)


@pytest.mark.parametrize("field", ["max_seconds", "deadline_at"])
def test_a_fetch_that_takes_longer_than_the_job_may_is_cut_short(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, field: str, clock: Any
) -> None:
    def fetch_slowly(*_: Any, check: Any) -> None:
        clock.ahead = 3601.0
        _endless(check)

    monkeypatch.setattr(shop.services.store, "fetch", fetch_slowly)
    monkeypatch.setattr(shop.supervisor.launcher, "start", lambda _: pytest.fail("nothing is left to start it for"))
    job_id = _submit(shop, "succeed", **_an_hour(shop, field))
    shop.supervisor.train(job_id)
    code = "time_budget_exceeded" if field == "max_seconds" else "deadline_exceeded"
    assert (shop.get(job_id).status, shop.get(job_id).error.code) == ("failed", code)


@pytest.mark.parametrize("name", ["1.safetensors", "model.keras"])
@pytest.mark.usefixtures("grace")
def test_what_takes_too_long_to_the_store_is_cut_short_a_grace_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put_file = shop.services.store.put_file

    def put_slowly(path: Path, *, check: Any = go_on) -> Any:
        return _endless(check) if path.name == name else put_file(path, check=check)

    monkeypatch.setattr(shop.services.store, "put_file", put_slowly)
    job_id = _submit(shop, "succeed", max_seconds=3.0)
    shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert (job.status, job.error.code, job.result_model_id) == ("failed", "time_budget_exceeded", None)
    assert 3.0 < job.finished_at - job.started_at < 15


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes have half a second to end, whatever they are asked to keep."""
    for reason in ("budget", "cancel", "stop"):
        monkeypatch.setitem(watch.GRACE_SECONDS, reason, 0.5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("grace")
def test_a_process_that_does_not_hear_that_its_time_is_over_is_killed(shop: Shop, clock: Any) -> None:
    job_id = _submit(shop, "deaf", max_seconds=3600)
    _end_by_the_hour(shop.resume(job_id), clock)
    assert shop.get(job_id).error.code == "time_budget_exceeded"
    assert "no weights are kept" in shop.get(job_id).error.message


@pytest.mark.usefixtures("grace")
@pytest.mark.parametrize("wish", ["cancel", "stop"])
def test_whoever_cancels_it_or_stops_the_worker_does_not_wait_for_its_weights(
    shop: Shop, wish: str, monkeypatch: pytest.MonkeyPatch, clock: Any, eventually: Callable[..., float]
) -> None:
    monkeypatch.setitem(watch.GRACE_SECONDS, "budget", 600.0)  # type: ignore[arg-type]
    asked, ask_to_stop = list[Keep](), ChildProcess.ask_to_stop

    def ask(child: ChildProcess, keep: Keep) -> None:
        asked.append(keep)
        ask_to_stop(child, keep)

    monkeypatch.setattr(ChildProcess, "ask_to_stop", ask)
    job_id = _submit(shop, "deaf", max_seconds=3600)
    thread = shop.resume(job_id)
    clock.ahead = 3601.0
    eventually(lambda: asked == ["weights"])
    if wish == "cancel":
        jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    else:
        shop.supervisor.stopping.set()
    thread.join(60)
    assert not thread.is_alive()
    assert shop.get(job_id).status == ("cancelled" if wish == "cancel" else "failed")


def test_a_job_that_keeps_within_its_limits_knows_nothing_of_them(shop: Shop) -> None:
    job_id = _submit(shop, "succeed", max_seconds=600, deadline_at=9e9)
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
