"""`client.jobs`."""

import json

import pytest

from tests.thaw.conftest import REPORT, FakeService, tagged
from thaw import Client
from thaw.errors import ConflictError, NotFoundError, WaitTimeoutError, WorkFailedError


def test_create_sends_the_fields_as_they_are(service: FakeService, client: Client) -> None:
    cut, schedule = {"drop_last": 2}, [{"unfreeze": "all", "epochs": 1}]
    job = client.jobs.create(model="model-1", training_file="ds-1", cut=cut, schedule=schedule, seed=7)
    expected = {"model": "model-1", "training_file": "ds-1", "cut": cut, "schedule": schedule, "seed": 7}
    assert json.loads(service.requests[0].content) == expected
    assert job.status == "queued"


def test_the_same_key_gives_the_same_job(service: FakeService, client: Client) -> None:
    jobs = [client.jobs.create(model="m", training_file="d", idempotency_key="once").id for _ in range(2)]
    assert jobs[0] == jobs[1]
    assert len(service.jobs) == 1


def test_a_plan_creates_nothing(service: FakeService, client: Client) -> None:
    plan = client.jobs.plan(model="model-1", training_file="ds-1")
    assert [(phase.name, list(phase.unfrozen_layers)) for phase in plan.phases] == [
        ("head", []),
        ("all", ["norm", "dense_2"]),
    ]
    assert plan.warnings == ["The learning rate does not fall."]
    assert service.jobs == {}
    assert "idempotency-key" not in service.requests[0].headers


def test_lists_carry_their_filters(service: FakeService, client: Client) -> None:
    list(client.jobs.list(status="failed", model="model-1", metadata={"team": "shoes"}, created_after=5.5, order="asc"))
    asked = dict(service.requests[0].url.params)
    expected = {"status": "failed", "model": "model-1", "metadata[team]": "shoes", "created_after": "5.5"}
    assert asked == {**expected, "order": "asc", "limit": "100"}


def test_wait_returns_the_ended_job_however_it_ended(service: FakeService, client: Client) -> None:
    job = service.add_job(status="running")
    error = {"class": "capacity", "code": "out_of_memory", "message": "Memory ran out."}
    answers = [{**service.jobs[job], "status": status} for status in ("queued", "running", "running")]
    ended = {**service.jobs[job], "status": "failed", "error": error}
    seen: list[str] = []
    service.jobs[job] = ended
    service.answers = [tagged_answer(answer) for answer in answers]
    found = client.jobs.wait(job, on_change=lambda now: seen.append(now.status))
    assert seen == ["queued", "running", "running", "failed"]
    assert found.error is not None
    assert found.error.code == "out_of_memory"
    assert found.finished


def tagged_answer(thing: dict[str, object]):  # noqa: ANN201 (as `tagged`)
    import httpx2

    return tagged(httpx2.Request("GET", "http://thaw.test"), thing)


def test_wait_can_be_limited(service: FakeService, client: Client) -> None:
    with pytest.raises(WaitTimeoutError):
        client.jobs.wait(service.add_job(status="running"), timeout=0.05)


def test_cancel_asks_and_may_ask_again(service: FakeService, client: Client) -> None:
    job = service.add_job(status="running")
    assert client.jobs.cancel(job).cancel_requested_at == 5
    assert client.jobs.cancel(job).cancel_requested_at == 5


def test_pause_and_resume_answer_with_the_job(service: FakeService, client: Client) -> None:
    job = service.add_job(status="running")
    assert client.jobs.pause(job).pause_requested_at == 5
    resumed = client.jobs.resume(job)
    assert (resumed.status, resumed.pause_requested_at) == ("queued", None)
    with pytest.raises(ConflictError):
        client.jobs.pause(service.add_job(status="succeeded"))


def test_cancel_of_a_job_that_succeeded_is_a_conflict(service: FakeService, client: Client) -> None:
    with pytest.raises(ConflictError) as caught:
        client.jobs.cancel(service.add_job(status="succeeded"))
    assert caught.value.code == "invalid_state_transition"


def test_metrics_come_epoch_by_epoch(service: FakeService, client: Client) -> None:
    rows = list(client.jobs.metrics(service.add_job()))
    assert [(row.number, row.metrics["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


def test_the_report_has_its_interval(service: FakeService, client: Client) -> None:
    report = client.jobs.report(service.add_job(status="succeeded", report=REPORT))
    assert report.test.accuracy is not None
    assert (report.test.accuracy.value, report.test.accuracy.low, report.test.accuracy.high) == (0.98, 0.9, 0.99)
    assert report.phases[0].proof is not None
    assert report.phases[0].proof.held


def test_a_cancelled_job_has_no_report(service: FakeService, client: Client) -> None:
    with pytest.raises(WorkFailedError, match="is cancelled; its status is final"):
        client.jobs.report(service.add_job(status="cancelled"))


def test_an_unknown_job_is_not_found(client: Client) -> None:
    for ask in (client.jobs.get, client.jobs.report, client.jobs.artifacts, client.jobs.wait):
        with pytest.raises(NotFoundError):
            ask("ftjob-absent")


def test_retry_and_fork_make_new_jobs_once_for_each_key(service: FakeService, client: Client) -> None:
    job = service.add_job(status="failed", seed=7)
    made = client.jobs.retry(job, priority="high", idempotency_key="once")
    assert client.jobs.retry(job, priority="high", idempotency_key="once").id == made.id
    assert (made.retry_of, made.priority, made.seed) == (job, "high", 7)
    forked = client.jobs.fork(job, after_phase="head", schedule=[{"epochs": 1}])
    assert forked.forked_from is not None
    assert forked.forked_from.job == job
    assert json.loads(service.requests[-1].content) == {"after_phase": "head", "schedule": [{"epochs": 1}]}
    with pytest.raises(ConflictError):
        client.jobs.retry(service.add_job(status="running"))
