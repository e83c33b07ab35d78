"""Faults of training: what a job goes on from by itself, what waits for a person, and what ends it."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from app.domain.job import Event
from app.domain.states import MAX_ATTEMPTS
from app.domain.worker import WorkerCapabilities
from app.services import history, jobs
from app.services.context import DEFAULT_PROJECT
from worker import watch
from worker.messages import Alive
from worker.sweeper import Sweeper
from worker.watch import Limits, Watch

pytestmark = pytest.mark.service

Shop = Any


def _events(shop: Shop, job_id: str, kind: str) -> list[Event]:
    told = history.events_since(shop.services, DEFAULT_PROJECT, job_id, after_number=0)
    return [event for event in told if event.type == kind]


def _lost(shop: Shop, job_id: str) -> list[str]:
    return [event.data["error"]["code"] for event in _events(shop, job_id, "attempt_lost")]  # type: ignore[index, call-overload]


def _went_on_from(shop: Shop, job_id: str) -> list[object]:
    return [event.data["step"] for event in _events(shop, job_id, "resumed")]


def _error(job: Any) -> tuple[str, str]:
    assert job.status == "failed"
    return job.error.error_class, job.error.code


# === Crashes ===


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("crash", "training_process_crashed"),
        ("killed", "training_process_killed"),
        ("leave", "training_process_ended"),
    ],
)
def test_a_process_that_dies_alone_costs_an_attempt_and_the_next_goes_on(shop: Shop, how: str, code: str) -> None:
    job = shop.train(f"count-{how}")
    assert (job.status, job.attempt.lease_expires_at) == ("queued", None)
    assert shop.bell.rung[-1] == ("train", job.id, "cpu")
    shop.supervisor.train(job.id)
    assert (shop.get(job.id).status, shop.get(job.id).attempt.number) == ("succeeded", 2)
    assert _lost(shop, job.id) == [code]
    assert _went_on_from(shop, job.id) == [20]


def test_a_checkpoint_that_is_on_its_way_when_the_process_dies_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = shop.services.store.put_file

    def slowly(path: Path, **given: Any) -> Any:
        threading.Event().wait(0.2)
        return put_file(path, **given)

    job_id = shop.submit("count-crash")
    with monkeypatch.context() as patch:
        patch.setattr(shop.services.store, "put_file", slowly)
        shop.supervisor.train(job_id)
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
    assert _went_on_from(shop, job_id) == [20]


def test_a_job_that_always_crashes_fails_with_that_very_reason(shop: Shop) -> None:
    job_id = shop.submit("crash")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert shop.get(job_id).status == "queued"
        shop.supervisor.train(job_id)
        assert len(_lost(shop, job_id)) == attempt
    job = shop.get(job_id)
    assert _error(job) == ("platform", "training_process_crashed")
    assert "SIGSEGV" in job.error.message
    assert "Fatal Python error: Segmentation fault" in job.error.message
    assert f"{MAX_ATTEMPTS} attempts" in job.error.message
    assert shop.train("succeed").status == "succeeded", "the worker and other jobs go on"


def test_an_attempt_that_was_lost_is_told_with_its_phase(shop: Shop) -> None:
    job_id, thread = shop.start("forever")
    _training_process().kill()
    thread.join(30)
    (event,) = _events(shop, job_id, "attempt_lost")
    assert event.data["error"]["phase"] == "forever"  # type: ignore[index, call-overload]
    assert event.level == "warn"


def _training_process() -> psutil.Process:
    alive = [child for child in psutil.Process().children() if child.status() != "zombie"]
    forkservers = [child for child in alive if "multiprocessing.forkserver" in str(child.cmdline())]
    (found,) = [child for server in forkservers for child in server.children() if os.getsid(child.pid) == child.pid]
    return found


# === Silence ===


def _pass_hours_until_it_ends(thread: threading.Thread, clock: Any) -> None:
    """More than once: what it had said before may be read only now."""
    for _ in range(30):
        clock.ahead += 3600
        thread.join(2)
        if not thread.is_alive():
            return
    pytest.fail("it goes on")


def test_a_process_that_hangs_is_ended_and_the_next_attempt_goes_on(
    open_shop: Callable[..., Shop], eventually: Callable[..., float], clock: Any
) -> None:
    shop = open_shop(stall_seconds=1800)
    job_id, thread = shop.start("count-frozen")
    eventually(lambda: _training_process().status() == psutil.STATUS_STOPPED)
    _pass_hours_until_it_ends(thread, clock)
    assert shop.get(job_id).status == "queued"
    assert _lost(shop, job_id) == ["training_process_stalled"]
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
    assert _went_on_from(shop, job_id) == [20]


def test_a_process_that_always_hangs_fails_and_says_where_it_was(
    open_shop: Callable[..., Shop], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(watch.GRACE_SECONDS, "stall", 9e9)  # type: ignore[arg-type]
    shop = open_shop(stall_seconds=1800)
    job_id = shop.submit("hang")
    for _ in range(MAX_ATTEMPTS):
        _pass_hours_until_it_ends(shop.resume(job_id), clock)
    job = shop.get(job_id)
    assert _error(job) == ("platform", "training_process_stalled")
    assert "THAW_STALL_SECONDS" in job.error.message
    assert "in hang" in job.error.message, "the frame that it hung in"


def test_a_clock_that_jumps_ends_nothing(open_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = time.time
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * (next(jumps) % 2))
    assert open_shop(stall_seconds=3600).train("count").status == "succeeded"


class Mute:
    """A child that says the same again and again, or nothing, and ends by itself after so many looks, a second each."""

    pid = 0

    def __init__(self, clock: Any, looks: int, says: list[Any]) -> None:
        self.clock, self.looks, self.says = clock, looks, says
        self.asked_where = 0

    def exit_code(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 else 0

    def receive(self, *, timeout: float, read: bool = True) -> list[Any]:  # noqa: ARG002 (the signature is the child's)
        self.clock.ahead += 1 if timeout else 0
        return self.says

    def ask_where(self) -> None:
        self.asked_where += 1

    def kill(self) -> None:
        self.looks = 0


@pytest.mark.parametrize(
    ("says", "full", "silent"),
    [([], False, True), ([], True, False), ([Alive()], False, False)],
    ids=["says nothing", "nobody listens", "says that it goes on"],
)
def test_only_a_process_that_says_nothing_to_somebody_who_listens_is_silent(
    clock: Any, says: list[Any], full: bool, silent: bool
) -> None:
    child: Any = Mute(clock, looks=7200, says=says)
    lease: Any = SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False)
    relay: Any = SimpleNamespace(full=full, error=None)
    ending = Watch(
        child,
        lease=lease,
        relay=relay,
        limits=Limits(stall_seconds=3600),
        stopping=threading.Event(),
        hurrying=threading.Event(),
        note=lambda _: None,
        since=0.0,
    ).run()
    assert (ending.reason, child.asked_where) == (("stall", 1) if silent else (None, 0))


# === Memory ===


def test_memory_that_runs_out_is_tried_once_more_with_half_the_batch(shop: Shop) -> None:
    job = shop.train("count-memory")
    assert job.status == "queued"
    assert (job.spec.batch_size, job.spec.schedule[0].gradient_accumulation) == (16, 2)
    assert [each.model_dump() for each in job.spec.adjustments] == [
        {"reason": "out_of_memory", "batch_size_before": 32, "batch_size": 16, "comparable": True}
    ]
    shop.supervisor.train(job.id)
    done = shop.get(job.id)
    assert (done.status, done.resume_fidelity, _lost(shop, job.id)) == ("succeeded", "tolerance", [])
    (event,) = _events(shop, job.id, "adjusted")
    assert "16 examples instead of 32" in event.message


@pytest.mark.parametrize("how", ["memory", "abort"])
def test_memory_that_runs_out_twice_fails_the_job(shop: Shop, how: str) -> None:
    job = shop.train(how)
    assert job.status == "queued"
    shop.supervisor.train(job.id)
    failed = shop.get(job.id)
    assert _error(failed) == ("capacity", "out_of_memory")
    assert "Thaw tried batches of 32 examples, and then of 16." in failed.error.message


def test_too_much_memory_ends_the_process_alone(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(training_memory_bytes=400 * 1024**2)
    job_id = shop.submit("swallow")
    shop.supervisor.train(job_id)
    shop.supervisor.train(job_id)
    assert _error(shop.get(job_id)) == ("capacity", "out_of_memory")
    assert "0.4 GiB" in shop.get(job_id).error.message
    assert shop.train("succeed").status == "succeeded"


# === Disk ===

ROOMY = WorkerCapabilities(queues=["cpu"], devices=["cpu"])


@contextmanager
def _sweeping(shop: Shop) -> Iterator[None]:
    sweeper = Sweeper(shop.services, worker="worker-1", capabilities=lambda: ROOMY)
    sweeper.start()
    try:
        yield
    finally:
        sweeper.end()
        sweeper.join(30)


def test_a_disk_that_is_really_full_sets_the_job_aside_until_there_is_room(
    open_shop: Callable[..., Shop], small_disk: Path, eventually: Callable[..., float]
) -> None:
    """With everything on it: database, artifacts, and where attempts work.

    While it is full no lease is renewed, which costs no attempt as long as the lease is longer than that takes.
    """
    shop = open_shop(folder=small_disk, storage_retry_seconds=0.2, fence_seconds=20.0, lease_seconds=30.0)
    job_id, work = shop.submit("roomy"), shop.services.settings.work_dir()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 512 * 1024))
    with _sweeping(shop):
        for attempt in (1, 2):
            eventually(lambda: shop.get(job_id).status == "queued")
            shop.supervisor.train(job_id)
            assert len(_events(shop, job_id, "storage_full")) == attempt
            assert list(work.iterdir()) == [], "what the attempt had written is gone"
        ballast.unlink()
        eventually(lambda: shop.get(job_id).status == "queued")
    shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert (job.status, job.attempt.number, _lost(shop, job_id)) == ("succeeded", 3, [])


def test_a_full_disk_sets_the_job_aside_and_it_goes_on_by_itself(
    open_shop: Callable[..., Shop], eventually: Callable[..., float]
) -> None:
    shop = open_shop(storage_retry_seconds=0.2)
    job = shop.train("count-full")
    assert job.status == "paused"
    with _sweeping(shop):
        eventually(lambda: shop.get(job.id).status == "queued")
    assert ("train", job.id, "cpu") in shop.bell.rung
    shop.supervisor.train(job.id)
    assert shop.get(job.id).status == "succeeded"
    assert _went_on_from(shop, job.id) == [20]


def test_a_worker_without_room_leaves_jobs_to_others(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(min_free_disk_bytes=2**62)
    job_id = shop.submit("succeed")
    shop.supervisor.train(job_id)
    assert (shop.get(job_id).status, shop.get(job_id).attempt.number) == ("queued", 0)


def test_a_full_disk_sets_the_job_aside_until_somebody_resumes_it(shop: Shop) -> None:
    job = shop.train("count-full")
    assert (job.status, job.attempt.lease_expires_at) == ("paused", None)
    (event,) = _events(shop, job.id, "storage_full")
    assert (event.level, event.data["error"]["code"]) == ("error", "storage_full")  # type: ignore[index, call-overload]
    assert event.data["error"]["error_class"] == "platform"  # type: ignore[index, call-overload]
    jobs.resume(shop.services, DEFAULT_PROJECT, job.id)
    shop.supervisor.train(job.id)
    assert shop.get(job.id).status == "succeeded"
    assert _went_on_from(shop, job.id) == [20]


def test_a_store_without_room_sets_the_job_aside(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop()
    job_id = shop.submit("succeed")
    # From here on the store refuses everything, as it does when the disk is nearly full.
    shop.services.store._spool._min_free_bytes = 2**62
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "paused"
    assert len(_events(shop, job_id, "storage_full")) == 1
    shop.services.store._spool._min_free_bytes = 0
    jobs.resume(shop.services, DEFAULT_PROJECT, job_id)
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
