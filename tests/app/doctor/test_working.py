"""What `thaw doctor` finds of those who work: broker, workers, queues, devices, clocks."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from app.doctor import working
from app.doctor.finding import ok
from app.domain.model import ModelOptions
from app.domain.worker import Fact, SelfTest, WorkerCapabilities
from app.queue import inspect_broker
from app.services import models, workers
from app.services.context import Services
from app.settings import Settings
from tests.app.doctor.conftest import CPU

# === Broker ===


def test_a_broker_that_evicts_or_forgets_is_told_of(settings: Settings, shared_valkey: Any, services: Services) -> None:
    services = replace(services, settings=settings)
    try:
        shared_valkey.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        shared_valkey.command("CONFIG", "SET", "appendonly", "no")
        assert working.broker_policy(services).verdict == "problem"
        assert "allkeys-lru" in working.broker_policy(services).found
        assert working.broker_persistence(services).verdict == "warning"
    finally:
        shared_valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        shared_valkey.command("CONFIG", "SET", "appendonly", "yes")
    assert inspect_broker(settings).policy == "noeviction"


def test_a_broker_that_keeps_its_policy_to_itself_is_told_of(
    settings: Settings, shared_valkey: Any, services: Services
) -> None:
    shared_valkey.command("ACL", "SETUSER", "watcher", "on", ">secret", "~*", "&*", "+@all", "-config")
    url = SecretStr(shared_valkey.url.replace("://", "://watcher:secret@", 1))
    found = working.broker_policy(replace(services, settings=settings.model_copy(update={"redis_url": url})))
    assert (found.verdict, found.found.endswith("maxmemory-policy not told")) == ("warning", True)
    assert "noeviction" in found.advice


def test_a_broker_that_cannot_save_is_a_problem(valkey: Any, services: Services) -> None:
    url = SecretStr(valkey.url)
    services = replace(services, settings=services.settings.model_copy(update={"redis_url": url}))
    assert working.broker_persistence(services).verdict == "ok"
    (valkey.folder / "dump.rdb").mkdir()  # no file takes that name now, whoever asks
    valkey.command("BGSAVE")
    deadline = time.monotonic() + 60
    while (found := working.broker_persistence(services)).verdict == "ok" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (found.verdict, found.found) == ("problem", "failing: rdb_last_bgsave_status")


# === Workers ===


@pytest.fixture
def live(services: Services) -> Iterator[Any]:
    def announce(capabilities: WorkerCapabilities, worker: str = "w1") -> None:
        workers.announce(services, worker=worker, capabilities=capabilities)

    return announce


def test_jobs_that_nobody_serves_are_a_problem(services: Services, world: Any, live: Any) -> None:
    assert working.live_workers(services).verdict == "warning"
    assert working.queues(services).verdict == "warning", "nothing waits, but nobody would come"
    world.job()
    found = working.queues(services)
    assert (found.verdict, "1 in 'cpu'" in found.found) == ("problem", True)
    assert "--queues cpu" in found.advice
    live(WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"]))
    assert working.queues(services).verdict == "warning", "files would wait"
    models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    assert "1 in 'prepare'" in working.queues(services).found
    live(CPU, "w2")
    assert working.queues(services).verdict == "ok"


def test_jobs_whose_workers_all_refuse_to_train_are_a_problem(services: Services, world: Any, live: Any) -> None:
    full = CPU.model_copy(update={"refuses_training": "its disk is full"})
    live(full)
    assert working.queues(services).verdict == "ok", "nothing waits"
    models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    assert working.queues(services).verdict == "ok", "files are checked all the same"
    world.job()
    found = working.queues(services)
    assert (found.verdict, found.found) == ("problem", "all workers refuse to train 1 in 'cpu'")
    live(CPU, "w2")
    assert working.queues(services).verdict == "ok"
    live(full.model_copy(update={"queues": ["gpu"]}), "w3")
    assert "1 in 'gpu'" in working.queues(services).found, "jobs for a GPU wait until it has room"


def test_a_worker_that_is_drained_or_refuses_to_train_is_told_of(services: Services, live: Any) -> None:
    live(WorkerCapabilities(queues=[], devices=["cpu"], draining=True))
    assert "w1 (draining)" in working.live_workers(services).found
    fact = Fact(name="frozen_weights_stay_still", kind="freezing", holds=False, measured="1 of 2")
    tested = SelfTest(ran_at=1.0, seconds=1.0, device="cpu", versions={}, facts=[fact])
    unfit = CPU.model_copy(update={"self_test": tested, "refuses_training": tested.refusal(), "queues": ["prepare"]})
    live(unfit)
    found = working.live_workers(services)
    assert found.verdict == "warning"
    assert "frozen_weights_stay_still" in found.found


def test_gpus_that_no_worker_serves_are_told_of(services: Services, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "count_gpus", lambda: 2)
    live(CPU)
    assert working.devices(services).verdict == "warning"
    live(WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"]), "w2")
    assert working.devices(services) == ok(
        "devices", "2 NVIDIA GPUs on this machine; live workers compute on NVIDIA H200, cpu"
    )


def test_clocks_that_disagree_are_told_of(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    assert working.clock(services).verdict == "ok"
    now = time.time
    monkeypatch.setattr(working.time, "time", lambda: now() - 60)
    found = working.clock(services)
    assert found.verdict == "warning"
    assert "behind" in found.found
