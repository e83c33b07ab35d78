"""What a hint makes a worker do: the best job there is, for as long as that may run."""

from typing import Any

import pytest

from app.domain.job import JobRequest
from app.domain.phases import Phase
from app.services import datasets, jobs, models
from app.services.context import DEFAULT_PROJECT
from app.storage.database import time_of
from app.storage.paging import PageQuery

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
    assert [shop.get(job).status for job in (normal, urgent)] == ["queued", "succeeded"]
    shop.supervisor.train(urgent)
    assert shop.get(normal).status == "succeeded", "the hint for the job that is done brings the other one"
    shop.supervisor.train(normal)
    assert [shop.get(job).attempt.number for job in (normal, urgent)] == [1, 1]


@pytest.mark.parametrize(
    ("field", "code"), [("max_seconds", "time_budget_exceeded"), ("deadline_at", "deadline_exceeded")]
)
def test_a_job_that_takes_longer_than_it_may_is_ended_and_nothing_is_published(
    shop: Shop, field: str, code: str
) -> None:
    with shop.services.db.read() as session:
        soon = time_of(session) + 1.5
    job_id = _submit(shop, "forever", **{field: 1.0 if field == "max_seconds" else soon})
    shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert job.error is not None
    assert (job.status, job.error.error_class, job.error.code) == ("failed", "budget", code)
    assert job.error.phase == "forever"
    assert (job.artifacts, job.result_model_id, job.report) == ([], None, None)
    assert shop.train("succeed").status == "succeeded", "the worker goes on"


def test_a_job_that_keeps_within_its_limits_knows_nothing_of_them(shop: Shop) -> None:
    job_id = _submit(shop, "succeed", max_seconds=600, deadline_at=9e9)
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
