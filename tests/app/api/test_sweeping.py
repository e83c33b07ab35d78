"""The API sweeps by itself: no worker lives here."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.services import sweeping
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JOBS = "/v1/fine_tuning/jobs"
SECONDS = 30
AWAY = OperationalError("SELECT 1", {}, Exception("away"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The same, but that it sweeps all the time, and leases are short."""
    return settings.model_copy(update={"sweep_seconds": 0.05, "lease_seconds": 1.0})


def _until(client: TestClient, job_id: str, is_so: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not is_so(job := client.get(f"{JOBS}/{job_id}").json()):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_a_job_that_nobody_can_run_fails_at_its_deadline(client: TestClient, thaw: "Thaw") -> None:
    job_id = thaw.job(deadline_at=int(time.time()) + 2)
    assert _until(client, job_id, lambda job: job["status"] == "failed")["error"]["code"] == "deadline_exceeded"


def test_a_job_that_is_to_be_cancelled_and_whose_last_worker_died_is_cancelled(
    client: TestClient, thaw: "Thaw"
) -> None:
    job_id = thaw.job()
    thaw.claim(job_id)
    client.post(f"{JOBS}/{job_id}/cancel")
    _until(client, job_id, lambda job: job["status"] == "cancelled")


@pytest.mark.usefixtures("thaw")
def test_a_sweep_that_fails_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    again, tried = threading.Event(), []

    def sweep(_: object) -> None:
        tried.append(1)
        if len(tried) < 3:
            raise AWAY
        again.set()

    monkeypatch.setattr(sweeping, "sweep", sweep)
    assert again.wait(SECONDS)


def test_it_ends_with_the_api(thaw: "Thaw") -> None:
    with sweeping.sweeping(thaw.services):
        assert [thread.name for thread in threading.enumerate()].count("sweeper") == 2
    assert [thread.name for thread in threading.enumerate()].count("sweeper") == 1
