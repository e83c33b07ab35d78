"""`…/retry` and `…/fork`, and what a job says of its place, its limits and where it comes from."""

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from app.domain.errors import Failure
from app.services import claims, keys, reports
from app.storage.tables import JobRow

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def failed(thaw: "Thaw") -> str:
    claim = thaw.claim(thaw.job(seed=7))
    thaw.run_epochs(claim, 2, checkpoint=b"weights")
    reports.fail_job(thaw.services, claim, Failure(error_class="platform", code="x", message="It broke."))
    return claim.identifier


def test_a_retry_is_created_like_any_job(client: TestClient, thaw: "Thaw", failed: str) -> None:
    response = client.post(f"{JOBS}/{failed}/retry")
    assert response.status_code == 201
    job = response.json()
    assert response.headers["Location"] == f"{JOBS}/{job['id']}"
    assert (job["retry_of"], job["seed"], job["status"]) == (failed, 7, "queued")
    assert thaw.doorbell.rung[-1] == ("train", job["id"], "cpu")


def test_a_fork_is_created_like_any_job(client: TestClient, failed: str) -> None:
    checkpoint = client.get(f"{JOBS}/{failed}/checkpoints").json()["data"][0]["id"]
    response = client.post(f"{JOBS}/{failed}/fork", json={"after_phase": "head", "seed": 9, "priority": "high"})
    assert response.status_code == 201
    job = response.json()
    assert response.headers["Location"] == f"{JOBS}/{job['id']}"
    assert job["forked_from"] == {"job": failed, "checkpoint": checkpoint}
    assert (job["model"], job["seed"], job["priority"]) == (checkpoint, 9, "high")
    assert [phase["name"] for phase in job["schedule"]] == ["all"]
    assert client.post(f"{JOBS}/{failed}/fork").status_code == 201, "nothing need be said"


@pytest.mark.parametrize("action", ["retry", "fork"])
def test_the_same_key_makes_one_job(client: TestClient, failed: str, action: str) -> None:
    key = {"Idempotency-Key": f"once-{action}"}
    first, second = (client.post(f"{JOBS}/{failed}/{action}", json={}, headers=key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotency-Replayed"] == "true"
    other = client.post(f"{JOBS}/{failed}/{action}", json={"priority": "low"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_key_tells_what_is_null_from_what_is_left_out(client: TestClient, failed: str) -> None:
    key = {"Idempotency-Key": "once"}
    assert client.post(f"{JOBS}/{failed}/fork", json={}, headers=key).status_code == 201
    assert client.post(f"{JOBS}/{failed}/fork", json={"class_weights": None}, headers=key).status_code == 422


def test_what_cannot_be_retried_or_forked_is_409_with_what_can_be_done(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job()
    for action, allowed in (("retry", ["cancel", "pause", "fork"]), ("fork", ["cancel", "pause"])):
        response = client.post(f"{JOBS}/{job}/{action}")
        assert response.status_code == 409
        problem = response.json()
        assert (problem["code"], problem["current_status"], problem["allowed_actions"]) == (
            "invalid_state_transition", "queued", allowed,
        )  # fmt: skip
        assert client.post(f"{JOBS}/ftjob-0/{action}").status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"after_phase": "al"}, "/after_phase"),
        ({"checkpoint": "ckpt-0"}, "/checkpoint"),
        ({"cut": {"drop_last": 2}}, "/cut"),
        ({"schedule": [{"epochs": 0}]}, "/schedule/0/epochs"),
        ({"schedule": [{"epochs": 1, "start_from": "best"}]}, "/schedule/0/start_from"),
        ({"training_file": "ds-0"}, "/training_file"),
        ({"deadline_at": 5}, "/deadline_at"),
        ({"priority": "urgent"}, "/priority"),
    ],
)
def test_wrong_fields_of_a_fork_are_pointed_at(
    client: TestClient, failed: str, body: dict[str, Any], pointer: str
) -> None:
    response = client.post(f"{JOBS}/{failed}/fork", json=body)
    assert response.status_code == 422
    assert [problem["pointer"] for problem in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", "urgent"), ("max_seconds", 0), ("max_seconds", "long"), ("deadline_at", -1), ("deadline_at", 5)],
)
def test_wrong_limits_of_a_job_are_pointed_at(client: TestClient, thaw: "Thaw", field: str, value: Any) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset(), field: value}
    response = client.post(JOBS, json=body)
    assert response.status_code == 422
    assert [problem["pointer"] for problem in response.json()["errors"]] == [f"/{field}"]


def test_a_job_shows_its_place_its_priority_and_its_limits(client: TestClient, thaw: "Thaw") -> None:
    first, urgent = thaw.job(), thaw.job(priority="high", max_seconds=60, deadline_at=9e9)
    job = client.get(f"{JOBS}/{urgent}").json()
    assert (job["priority"], job["max_seconds"], job["deadline_at"]) == ("high", 60, 9e9)
    assert job["progress"]["queue_position"] == 1
    assert client.get(f"{JOBS}/{first}").json()["progress"]["queue_position"] == 2
    listed = client.get(JOBS).json()["data"]
    assert [each["progress"]["queue_position"] for each in listed] == [None, None]


def test_a_job_belongs_to_the_key_that_it_came_with(client: TestClient, thaw: "Thaw", failed: str) -> None:
    again = client.post(f"{JOBS}/{failed}/retry").json()["id"]
    forked = client.post(f"{JOBS}/{failed}/fork").json()["id"]
    with thaw.services.db.read() as session:
        owners = {session.get_one(JobRow, job).api_key_id for job in (failed, again, forked)}
    (key,) = owners
    assert key.startswith("key-")


def test_who_sends_three_jobs_does_not_hold_up_the_holder_of_another_key(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}

    def sent_by(token: str) -> str:
        response = client.post(JOBS, json=body, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    alice, bob = (keys.create(thaw.services.db, name)[1] for name in ("alice", "bob"))
    first, second, third = (sent_by(alice) for _ in range(3))
    other = sent_by(bob)
    assert client.get(f"{JOBS}/{other}").json()["progress"]["queue_position"] == 2
    claimed = [claims.claim_next(thaw.services, first, worker=f"worker-{number}") for number in range(4)]
    assert [claim and claim.identifier for claim in claimed] == [first, other, second, third]
