"""The doorbell rings a real Valkey server, and never keeps anybody waiting."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.queue import MAX_WAITING_HINTS, QUEUES, TASKS, CeleryDoorbell, broker_url, working_celery
from app.settings import Settings

pytestmark = pytest.mark.service


@pytest.fixture
def settings(valkey: Any, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=valkey.url)


def test_a_hint_carries_an_id_and_nothing_else(settings: Settings) -> None:
    assert CeleryDoorbell(settings).ring("train", "ftjob-1", queue="cpu")
    with working_celery(settings).connection_for_read() as connection:
        message = connection.SimpleQueue("cpu").get(timeout=2)
    assert message.headers["task"] == TASKS["train"] == "thaw.train"
    assert json.loads(message.body)[:2] == [["ftjob-1"], {}]


def test_a_ring_takes_less_than_a_tenth_of_a_second_whatever_the_server_does(settings: Settings, valkey: Any) -> None:
    doorbell = CeleryDoorbell(settings)

    def ring(*, heard: bool) -> None:
        started = time.monotonic()
        assert doorbell.ring("train", "ftjob-1", queue="cpu") is heard
        assert doorbell.reachable() is heard
        assert time.monotonic() - started < 2, "two calls"

    doorbell.ring("train", "ftjob-1", queue="cpu")  # imports what Celery imports late
    ring(heard=True)
    valkey.signal(signal.SIGSTOP)
    ring(heard=False)
    valkey.signal(signal.SIGCONT)
    ring(heard=True)
    valkey.kill()
    ring(heard=False)
    valkey.start()
    ring(heard=True)


def test_nothing_listens_is_no_error(tmp_path: Path) -> None:
    assert not CeleryDoorbell(Settings(data_dir=tmp_path)).ring("train", "ftjob-1", queue="cpu")


def test_a_backlog_does_not_fill_the_broker(settings: Settings, valkey: Any) -> None:
    doorbell = CeleryDoorbell(settings)
    assert all(doorbell.ring("train", f"ftjob-{number}", queue="cpu") for number in range(MAX_WAITING_HINTS + 50))
    assert valkey.command("LLEN", "thaw:cpu") == f":{MAX_WAITING_HINTS}\r\n".encode()
    assert doorbell.ring("train", "ftjob-1", queue="gpu")
    assert valkey.command("LLEN", "thaw:gpu") == b":1\r\n"


def test_without_a_url_the_embedded_server_is_meant(tmp_path: Path) -> None:
    assert broker_url(Settings(data_dir=tmp_path)) == f"redis+socket://{tmp_path}/run/broker.sock"


def test_nothing_of_celery_is_used_that_could_run_a_job_twice_or_lose_it(settings: Settings) -> None:
    conf = working_celery(settings).conf
    assert conf.task_acks_late is False
    assert conf.task_reject_on_worker_lost is False
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]
    assert conf.worker_enable_remote_control is False
    assert [queue.name for queue in conf.task_queues] == list(QUEUES)


def test_sending_needs_no_tensorflow() -> None:
    program = "import sys, app.queue; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
