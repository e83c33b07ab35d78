"""The supervisor sees a job through, and writes exactly one ending, whatever happens to its process."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from sqlalchemy import select, text

from app.domain.errors import MisconfiguredError, ServiceUnavailableError
from app.services import claims, history, jobs, models, sweep
from app.services.context import DEFAULT_PROJECT
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import JobRow
from worker import watch
from worker.processes import ProcessNotStartedError

pytestmark = pytest.mark.service

Shop = Any
Eventually = Callable[..., float]


def _children() -> list[psutil.Process]:
    """Children that work: descendants of the forkserver."""
    alive = [child for child in psutil.Process().children() if child.status() != "zombie"]
    forkservers = [child for child in alive if "multiprocessing.forkserver" in str(child.cmdline())]
    return [process for child in forkservers for process in child.children() if process.status() != "zombie"]


def _leader() -> psutil.Process:
    """The one training process."""
    (leader,) = [process for process in _children() if os.getsid(process.pid) == process.pid]
    return leader


@pytest.fixture(autouse=True)
def no_process_is_left(eventually: Eventually) -> Any:
    yield
    eventually(lambda: not _children(), seconds=10)


def _error(job: Any) -> tuple[str, str, str]:
    assert job.status == "failed"
    assert job.error is not None
    return job.error.error_class, job.error.code, job.error.message


# === Success ===


def test_a_job_goes_from_its_claim_to_a_model_that_people_can_use(shop: Shop) -> None:
    job = shop.train("succeed")
    assert job.status == "succeeded"
    assert job.attempt.number == 1
    assert {artifact.name for artifact in job.artifacts} == {"model.keras", "report.json"}
    assert job.report is not None
    result = models.get(shop.services, DEFAULT_PROJECT, job.result_model_id)
    assert (result.status, result.job_id) == ("ready", job.id)
    assert result.canonical is not None
    assert [artifact.name for artifact in result.canonical] == ["config.json"]
    content = b"".join(shop.services.store.read(result.download[0].sha256))
    assert content == f"model of attempt in {job.id}-1".encode()


def test_everything_it_reported_is_kept_in_order(shop: Shop) -> None:
    job = shop.train("succeed")
    events = history.events(shop.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100, order="asc")).items
    types = [event.type for event in events]
    assert types.index("stage") < types.index("metrics") < types.index("completed") == len(types) - 1
    metrics = history.metrics(shop.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100)).items
    assert [row.metrics for row in metrics] == [{"loss": 0.5}]
    checkpoints = history.checkpoints(shop.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100)).items
    assert [b"".join(shop.services.store.read(each.artifact.sha256)) for each in checkpoints] == [b"weights"]


def test_what_an_attempt_left_on_disk_is_gone(shop: Shop) -> None:
    shop.train("succeed")
    assert list(shop.services.settings.work_dir().iterdir()) == []


def test_a_model_and_a_dataset_become_usable(shop: Shop) -> None:
    model, dataset = shop.model(), shop.dataset()
    assert (model.status, dataset.status) == ("ready", "ready")
    assert model.canonical is not None
    assert dataset.canonical is not None
    assert [artifact.name for artifact in dataset.canonical] == ["dataset.json"]


def test_a_duplicate_hint_is_harmless(shop: Shop) -> None:
    job_id, thread = shop.start("forever")
    started = time.monotonic()
    shop.supervisor.train(job_id)
    assert time.monotonic() - started < 5, "it is somebody else's"
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)
    shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert (job.status, job.attempt.number) == ("cancelled", 1)


def test_one_hint_is_enough_for_all_jobs_that_wait(shop: Shop) -> None:
    first, cancelled, failing, last = (shop.submit(each) for each in ("succeed", "succeed", "refuse", "succeed"))
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, cancelled)
    shop.supervisor.train(last)
    ended = {job_id: shop.get(job_id).status for job_id in (first, cancelled, failing, last)}
    assert ended == {first: "succeeded", cancelled: "cancelled", failing: "failed", last: "succeeded"}


def test_a_hint_for_nothing_is_harmless(shop: Shop) -> None:
    shop.supervisor.train("ftjob-none")
    shop.supervisor.register("model-none")
    shop.supervisor.validate("ds-none")


# === A store that is away ===


def _away(*_: object, **__: object) -> NoReturn:
    message = "The artifact store does not answer at the moment."
    raise ServiceUnavailableError(message)


@pytest.mark.parametrize("call", ["fetch", "put_file"])
def test_a_store_that_does_not_answer_gives_the_job_back_for_free(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job_id = shop.submit("succeed")
    with monkeypatch.context() as patch:
        patch.setattr(shop.services.store, call, _away)
        if call == "fetch":
            shutil.rmtree(shop.services.settings.cache_dir(), ignore_errors=True)
        for _ in range(4):  # more often than attempts may be lost
            shop.supervisor.train(job_id)
            assert shop.get(job_id).status == "queued"
    shop.supervisor.train(job_id)
    assert (shop.get(job_id).status, shop.get(job_id).attempt.number) == ("succeeded", 5)


def test_a_store_that_refuses_fails_the_job_with_the_platform_at_fault(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        message = "The artifact store refuses Thaw."
        raise MisconfiguredError(message)

    monkeypatch.setattr(shop.services.store, "put_file", refuse)
    assert _error(shop.train("succeed")) == ("platform", "misconfigured", "The artifact store refuses Thaw.")


def test_what_cannot_be_deleted_now_changes_nothing_and_is_deleted_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shop.services.store, "remove", _away)
        job = shop.train("count")
        assert job.status == "succeeded"
        kept = history.checkpoints(shop.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100)).items
        before = [each for each in kept if each.kind == "resume"]
        sweep.sweep(shop.services)
    assert before, "what it could have gone on from is still listed"
    sweep.sweep(shop.services)
    after = history.checkpoints(shop.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100)).items
    assert [each for each in after if each.kind == "resume"] == []
    assert not any(shop.services.store.exists(file.sha256) for each in before for file in each.files)


# === Failure ===


@pytest.mark.parametrize(
    ("behaviour", "error_class", "code"),
    [
        ("refuse", "user", "illegal_cut"),
        ("error", "platform", "internal_error"),
        ("link", "platform", "result_unusable"),
        ("foreign", "platform", "result_unusable"),
    ],
)
def test_every_end_has_its_class_and_code(shop: Shop, behaviour: str, error_class: str, code: str) -> None:
    assert _error(shop.train(behaviour))[:2] == (error_class, code)


def test_a_file_whose_check_somebody_killed_is_checked_again(shop: Shop) -> None:
    model = shop.model("killed")
    assert model.status == "validating"
    for _ in range(2):
        shop.supervisor.register(model.id)
    model = models.get(shop.services, DEFAULT_PROJECT, model.id)
    assert model.status == "failed"
    assert model.error is not None
    assert model.error.code == "worker_lost"


@pytest.mark.parametrize(
    ("behaviour", "error_class", "code"),
    [
        ("crash", "user", "unusable_source"),
        ("greedy", "capacity", "out_of_memory"),
        ("refuse", "user", "illegal_cut"),
    ],
)
def test_a_hostile_model_file_fails_itself_alone(
    open_shop: Callable[..., Shop], behaviour: str, error_class: str, code: str
) -> None:
    shop = open_shop(training_memory_bytes=4 * 1024**3)
    model = shop.model(behaviour)
    assert model.status == "failed"
    assert (model.error.error_class, model.error.code) == (error_class, code)
    assert shop.model().status == "ready"


def test_a_check_that_takes_too_long_is_ended(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(preparation_timeout_seconds=0.5)
    dataset = shop.dataset("forever")
    assert dataset.status == "failed"
    assert (dataset.error.error_class, dataset.error.code) == ("budget", "preparation_timeout")


def test_an_error_of_the_supervisor_fails_the_job_and_not_the_worker(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shop.submit("succeed")
    with monkeypatch.context() as patch:
        patch.setattr(shop.supervisor.launcher, "start", lambda _: {}["bug"])
        shop.supervisor.train(job_id)
    assert _error(shop.get(job_id))[:2] == ("platform", "internal_error")
    assert shop.train("succeed").status == "succeeded"


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
def test_a_fault_of_the_machine_costs_an_attempt_and_three_the_job(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job_id = shop.submit("succeed")

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(shop.supervisor.launcher, "start", fail)
    for status in ("queued", "queued", "failed"):
        shop.supervisor.train(job_id)
        assert shop.get(job_id).status == status
    assert _error(shop.get(job_id))[:2] == ("platform", "worker_failed")
    assert str(error).rpartition("] ")[2] in shop.get(job_id).error.message


# === Cancel, stop ===


@pytest.mark.parametrize("behaviour", ["forever", "deaf"])
def test_cancel_of_a_running_job_stops_it_within_one_step_and_two_seconds(
    shop: Shop, eventually: Eventually, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace = watch.GRACE_SECONDS["cancel"]
    assert grace == 2
    if behaviour == "forever":  # it listens, and nobody has to kill it
        monkeypatch.setitem(watch.GRACE_SECONDS, "cancel", 600.0)  # type: ignore[arg-type]
    job_id, thread = shop.start(behaviour)
    asked = time.monotonic()
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    eventually(lambda: shop.get(job_id).status == "cancelled", seconds=60)
    assert behaviour == "forever" or time.monotonic() - asked >= grace
    thread.join(30)


def test_a_worker_that_stops_gives_its_job_back_for_free(shop: Shop) -> None:
    job_id, thread = shop.start("forever")
    for attempt in (1, 2, 3, 4):  # more often than a worker may be lost
        shop.supervisor.stopping.set()
        thread.join(30)
        assert not thread.is_alive()
        job = shop.get(job_id)
        assert (job.status, job.attempt.number, job.attempt.lease_expires_at) == ("queued", attempt, None)
        assert shop.bell.rung[-1] == ("train", job_id, "cpu")
        shop.supervisor.stopping.clear()
        thread = shop.resume(job_id)
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)


def test_a_process_that_a_service_manager_ended_with_the_worker_costs_nothing(shop: Shop) -> None:
    job_id, thread = shop.start("deaf")
    _leader().kill()
    shop.supervisor.stopping.set()
    thread.join(30)
    assert shop.get(job_id).status == "queued"


# === The lease ===


def test_a_long_job_keeps_its_lease(shop: Shop, eventually: Eventually) -> None:
    job_id, thread = shop.start("forever")
    first = shop.get(job_id).attempt.lease_expires_at
    eventually(lambda: shop.get(job_id).attempt.lease_expires_at > first + 1.5)
    sweep.sweep(shop.services)
    assert shop.get(job_id).status == "running"
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)


def test_a_supervisor_that_cannot_renew_ends_its_process_before_anybody_else_may_claim(
    open_shop: Callable[..., Shop], eventually: Eventually, clock_of_leases: Any
) -> None:
    shop = open_shop(lease_seconds=7200.0, fence_seconds=3600.0)
    job_id, thread = shop.start("deaf")
    shop.database.down = True
    clock_of_leases.ahead = 1800.0
    refused = shop.database.refused
    eventually(lambda: shop.database.refused > refused + 2)
    assert _children(), "half of the fence is left"
    clock_of_leases.ahead = 3601.0
    eventually(lambda: not _children())
    thread.join(30)
    assert not thread.is_alive()
    shop.database.down = False
    assert sweep.sweep(shop.services).taken_back == 0, "its lease has not run out"
    assert shop.get(job_id).status == "running", "it writes nothing: the sweeper takes it back"
    with shop.services.db.begin() as session:
        assert session.scalars(select(JobRow.lease_expires_at > now())).one()
        session.execute(text("UPDATE jobs SET lease_expires_at = 1"))
    assert sweep.sweep(shop.services).taken_back == 1
    assert shop.get(job_id).status == "queued"


def test_a_database_that_is_away_for_a_moment_costs_nothing(shop: Shop, eventually: Eventually) -> None:
    job_id, thread = shop.start("forever")
    shop.database.down = True
    started = time.monotonic()
    while time.monotonic() - started < 1:
        assert _children()
    shop.database.down = False
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    eventually(lambda: shop.get(job_id).status == "cancelled")
    thread.join(30)


def test_the_result_is_published_although_the_database_was_away_at_the_end(shop: Shop) -> None:
    job_id = shop.submit("succeed")
    original = shop.supervisor.launcher.start

    class Away:
        """Cuts the database off when the process starts, for one second."""

        def start(self, order: Any) -> Any:
            shop.database.down = True
            threading.Timer(1, lambda: setattr(shop.database, "down", False)).start()
            return original(order)

    import dataclasses

    dataclasses.replace(shop.supervisor, launcher=Away()).train(job_id)
    assert shop.get(job_id).status == "succeeded"


def test_who_lost_the_lease_kills_its_process_and_writes_nothing(shop: Shop, eventually: Eventually) -> None:
    job_id, thread = shop.start("hang")
    with shop.services.db.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = 1"))
    assert sweep.sweep(shop.services).taken_back == 1
    other = claims.claim_job(shop.services, job_id, worker="worker-other")
    assert other is not None
    eventually(lambda: not _children(), seconds=10)
    thread.join(30)
    job = shop.get(job_id)
    assert (job.status, job.attempt.number, job.attempt.worker) == ("running", 2, "worker-other")
    claims.release(shop.services, other, charge_attempt=False)


# === Over time ===


def test_many_jobs_leave_no_file_descriptor_and_no_thread_behind(shop: Shop, eventually: Eventually) -> None:
    shop.train("succeed")
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 (a folder of the kernel)
    jobs = ("succeed", "crash", "refuse", "succeed", "leave")
    for behaviour in jobs:
        shop.train(behaviour)
    # Other threads of this process come and go; what leaks with each job is as many as there were jobs.
    assert len(os.listdir("/proc/self/fd")) < before + len(jobs)  # noqa: PTH208
    eventually(lambda: threading.active_count() <= threads)


# === The cache ===


def test_jobs_on_the_same_data_share_what_was_fetched(shop: Shop) -> None:
    shop.train("succeed")
    shop.train("succeed")
    folders = [path for path in shop.services.settings.cache_dir().iterdir() if path.is_dir()]
    assert len(folders) == 2, "one source, one dataset"


def test_the_cache_keeps_its_bound_but_never_drops_what_is_in_use(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cache_bytes=0)
    job_id, thread = shop.start("forever")
    cache: Path = shop.services.settings.cache_dir()
    in_use = {path for path in cache.iterdir() if path.is_dir()}
    assert len(in_use) == 2
    from worker.engine.foldercache import FolderCache

    FolderCache(cache, max_bytes=0).shrink()
    assert all(path.is_dir() for path in in_use)
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


# === Processes that cannot be started ===


def _no_process(*_: object) -> NoReturn:
    message = "The machine cannot start another process: EOFError()"
    raise ProcessNotStartedError(message)


def test_a_process_that_cannot_be_started_costs_an_attempt_and_says_why(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shop.submit("succeed")
    with monkeypatch.context() as broken:
        broken.setattr(shop.supervisor.launcher, "start", _no_process)
        shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert (job.status, job.attempt.number) == ("queued", 1)
    events = history.events(shop.services, DEFAULT_PROJECT, job_id, PageQuery()).items
    (lost,) = [event for event in events if event.type == "attempt_lost"]
    assert "cannot start another process" in lost.message
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
