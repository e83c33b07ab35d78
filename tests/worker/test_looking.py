"""A worker with a free device begins a job that nobody has rung it for."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.worker import WorkerCapabilities
from app.services import jobs
from app.services.context import DEFAULT_PROJECT
from worker.lanes import Lane
from worker.looking import Looking

pytestmark = pytest.mark.service

Shop = Any
IDLE = WorkerCapabilities(queues=["cpu", "prepare"], devices=["cpu"], keras=None, tensorflow=None)


def test_a_job_that_still_waits_at_the_second_look_is_begun(shop: Shop) -> None:
    looking = Looking(shop.supervisor, Lane(1))
    looking.look(IDLE)
    job_id = shop.submit("succeed")
    looking.look(IDLE)
    looking.wait()
    assert shop.get(job_id).status == "queued", "its hint may be on its way"
    looking.look(IDLE)
    looking.wait()
    assert shop.get(job_id).status == "succeeded"


def test_a_line_that_moves_is_one_in_which_somebody_waits(shop: Shop) -> None:
    """With several API keys or short jobs the next one is another at each look."""
    looking, first, second = Looking(shop.supervisor, Lane(1)), shop.submit("succeed"), shop.submit("succeed")
    looking.look(IDLE)
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, first)
    looking.look(IDLE)
    looking.wait()
    assert shop.get(second).status == "succeeded"


@pytest.mark.parametrize(
    "worker",
    [
        IDLE.model_copy(update={"draining": True}),
        IDLE.model_copy(update={"refuses_training": "its disk is full"}),
        IDLE.model_copy(update={"queues": ["prepare"]}),
    ],
)
def test_whoever_does_not_train_begins_nothing(shop: Shop, worker: WorkerCapabilities) -> None:
    job_id, looking = shop.submit("succeed"), Looking(shop.supervisor, Lane(1))
    for _ in range(3):
        looking.look(worker)
        looking.wait()
    assert shop.get(job_id).status == "queued"


def test_whoever_is_busy_begins_nothing(shop: Shop, eventually: Callable[..., float]) -> None:
    job_id, lane, done = shop.submit("succeed"), Lane(1), threading.Event()
    looking = Looking(shop.supervisor, lane)
    thread = threading.Thread(target=lane.run, args=("other", done.wait))
    thread.start()
    eventually(lambda: lane.full)
    for _ in range(3):
        looking.look(IDLE)
        looking.wait()
    assert shop.get(job_id).status == "queued"
    done.set()
    thread.join()
    assert shop.get(job_id).status == "queued", "it does not wait in the lane"
