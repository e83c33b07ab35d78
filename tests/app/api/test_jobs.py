"""`/v1/fine_tuning/jobs`: create, plan, retrieve, cancel."""

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.domain.errors import Failure
from app.domain.exports import Export
from app.domain.worker import WorkerCapabilities
from app.services import reports, workers
from app.storage.tables import JobRow

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JOBS = "/v1/fine_tuning/jobs"


def test_the_line_that_tells_of_a_new_job_names_the_job_and_the_request(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    with capture_logs([merge_contextvars]) as logs:
        headers = {"X-Request-Id": "mine-1", "Idempotency-Key": "once"}
        response = client.post(JOBS, json=body, headers=headers)
        client.post(JOBS, json=body, headers=headers | {"X-Request-Id": "mine-2"})
    (line,) = [line for line in logs if line["event"] == "Created a job."]
    assert (line["job_id"], line["request_id"]) == (response.json()["id"], "mine-1")
    assert response.headers["X-Request-Id"] == "mine-1"


def test_a_job_that_names_only_model_and_data_is_stored_with_the_whole_recipe(client: TestClient, thaw: "Thaw") -> None:
    model, dataset = thaw.ready_model(), thaw.ready_dataset()
    response = client.post(JOBS, json={"model": model, "training_file": dataset})
    assert response.status_code == 201
    job = response.json()
    assert response.headers["Location"] == f"{JOBS}/{job['id']}"
    assert client.get(response.headers["Location"]).json() == job | {
        "progress": {"percent": 0.0, "eta_seconds": None, "queue_position": 1}
    }
    assert (job["object"], job["status"], job["model_id"], job["dataset_id"]) == (
        "fine_tuning.job", "queued", model, dataset,
    )  # fmt: skip
    assert job["cut"] == {"drop_last": 1}
    assert [(phase["name"], phase["unfreeze"], phase["epochs"]) for phase in job["schedule"]] == [
        ("head", "none", 4),
        ("all", "all", 16),
    ]
    assert job["hyperparameters"] == {"batch_size": 32, "n_epochs": 20}
    assert job["seed"] >= 0
    assert job["allowed_actions"] == ["cancel", "pause", "fork"]
    assert (job["priority"], job["max_seconds"], job["deadline_at"]) == ("normal", None, None)
    assert (job["retry_of"], job["forked_from"]) == (None, None)
    assert (job["error"], job["report"], job["fine_tuned_model"], job["artifacts"]) == (None, None, None, [])
    assert (job["organization_id"], job["result_files"], job["trained_tokens"]) == ("org-thaw", [], None)
    assert thaw.doorbell.rung[-1] == ("train", job["id"], "cpu")


def test_a_queued_job_says_when_it_may_have_ended(client: TestClient, thaw: "Thaw") -> None:
    claim = thaw.claim(thaw.job())
    with thaw.services.db.begin() as session:
        ago = {"started_at": JobRow.started_at - 3 * 86_400, "attempt_started_at": JobRow.attempt_started_at - 600}
        session.execute(update(JobRow).values(ago))
    thaw.succeed(claim)
    capabilities = WorkerCapabilities(queues=["cpu"], devices=["cpu"])
    workers.announce(thaw.services, worker="worker-7", capabilities=capabilities)
    progress = client.get(f"{JOBS}/{thaw.job()}").json()["progress"]
    assert progress == {"percent": 0.0, "eta_seconds": pytest.approx(630, abs=30), "queue_position": 1}


def test_a_job_on_files_waits_for_their_checks(client: TestClient, thaw: "Thaw") -> None:
    model, data = thaw.upload(), thaw.upload(name="data.npz")
    job = thaw.post(JOBS, {"model": model, "training_file": data})
    assert (job["status"], job["model"], job["training_file"]) == ("validating_files", model, data)
    assert client.get(f"/v1/models/{job['model_id']}").json()["file"] == model
    assert client.get(f"/v1/datasets/{job['dataset_id']}").json()["file"] == data


def test_every_wrong_field_is_pointed_at_at_once_with_what_is_allowed(client: TestClient) -> None:
    body = {
        "training_file": "ds-0",
        "cut": {"drop_last": 1, "layer": "hidden_1"},
        "head": {"layers": [{"type": "lstm"}, {"units": 3}, {"type": "dense", "units": 0, "activation": "softmax"}]},
        "schedule": [{"epochs": 0, "unfreeze": "some", "optimizer": {"type": "sgd", "learning_rate": 0.1, "beta": 1}}],
        "batch_size": "many",
        "exports": ["onnx", "coreml"],
        "hyperparameters": {"n_epochs": 3},
    }
    response = client.post(JOBS, json=body)
    assert response.status_code == 422
    problems = {problem["pointer"]: problem for problem in response.json()["errors"]}
    assert set(problems) == {
        "/model", "/cut", "/head/layers/0/type", "/head/layers/1/type", "/head/layers/2/units",
        "/head/layers/2/activation", "/schedule/0/epochs", "/schedule/0/unfreeze", "/schedule/0/optimizer/beta",
        "/batch_size", "/exports/1", "/hyperparameters",
    }  # fmt: skip
    assert problems["/exports/1"]["allowed"] == ["saved_model", "litert", "litert_int8", "onnx"]
    assert problems["/cut"]["allowed"] == ["drop_last", "keep_first", "layer", "fraction"]
    assert "dense" in problems["/head/layers/0/type"]["allowed"]
    assert "dense" in problems["/head/layers/1/type"]["allowed"]
    assert "relu" in problems["/head/layers/2/activation"]["allowed"]
    assert problems["/schedule/0/unfreeze"]["allowed"][:2] == ["none", "all"]
    assert "received 0" in problems["/schedule/0/epochs"]["message"]
    assert response.json()["error"]["param"] is not None
    assert response.json()["code"] == "invalid_request"


def test_a_wrong_learning_rate_schedule_is_pointed_at_with_the_kinds_there_are(client: TestClient) -> None:
    schedules = [{"type": "step"}, {}, {"type": "cosine", "end_factor": 2}, {"type": "constant", "warmup_epochs": 9}]
    phases = [{"epochs": 1, "learning_rate_schedule": schedule} for schedule in schedules]
    response = client.post(JOBS, json={"model": "m", "training_file": "d", "schedule": phases})
    problems = {problem["pointer"]: problem for problem in response.json()["errors"]}
    assert set(problems) == {
        "/schedule/0/learning_rate_schedule/type", "/schedule/1/learning_rate_schedule/type",
        "/schedule/2/learning_rate_schedule/end_factor", "/schedule/3/learning_rate_schedule",
    }  # fmt: skip
    for index in (0, 1):
        allowed = problems[f"/schedule/{index}/learning_rate_schedule/type"]["allowed"]
        assert allowed == ["constant", "cosine", "one_cycle", "exponential"]
    assert "longer than the phase" in problems["/schedule/3/learning_rate_schedule"]["message"]


def test_carrying_on_with_another_optimizer_is_pointed_at(client: TestClient) -> None:
    adam = {"type": "adam", "learning_rate": 0.1}
    phases = [{"epochs": 1}, {"epochs": 1}, {"epochs": 1, "optimizer": adam, "optimizer_state": "carry"}]
    response = client.post(JOBS, json={"model": "m", "training_file": "d", "schedule": phases})
    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/schedule/2/optimizer_state", "other_optimizer")
    assert "'sgd'" in problem["message"]
    assert "'adam'" in problem["message"]


def test_a_preset_is_stored_as_its_phases_with_its_name_beside_them(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    gradual = client.post(JOBS, json={**body, "schedule": {"preset": "gradual", "blocks": 2, "epochs": 1}}).json()
    assert gradual["preset"] == "gradual"
    assert [phase["unfreeze"] for phase in gradual["schedule"]] == ["none", {"fraction": 0.5}, "all"]
    scratch = client.post(JOBS, json={**body, "schedule": "from_scratch"}).json()
    assert (scratch["preset"], scratch["backbone_weights"]) == ("from_scratch", "random")
    given = client.post(JOBS, json={**body, "schedule": [{"epochs": 1}]}).json()
    assert given["preset"] is None


@pytest.mark.parametrize(
    ("schedule", "pointer", "allowed"),
    [
        ("fine-tune", "/schedule", "fine_tune"),
        ({"preset": "fastai"}, "/schedule/preset", "fine_tune"),
        ({"epochs": 3}, "/schedule/preset", "gradual"),
        ({"preset": "gradual", "blocks": 0}, "/schedule/blocks", None),
        ({"preset": "full", "layer_decay": 0.5}, "/schedule/layer_decay", None),
        ({"preset": "two_phase", "early_stopping": {"patience": 0}}, "/schedule/early_stopping/patience", None),
        (7, "/schedule", None),
        ([], "/schedule", None),
        ({"preset": "two_phase", "unfreeze": {"from_layer": "nowhere"}}, "/schedule", "hidden_1"),
    ],
)
def test_a_wrong_preset_is_pointed_at(
    client: TestClient, thaw: "Thaw", schedule: Any, pointer: str, allowed: str | None
) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    response = client.post(JOBS, json={**body, "schedule": schedule})
    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert problem["pointer"] == pointer
    assert allowed is None or allowed in problem["allowed"]


@pytest.mark.parametrize(
    ("changes", "pointer", "word"),
    [
        ({"head": "keep"}, "/head", "drop_last"),
        ({"head": "kept", "cut": {"drop_last": 0}}, "/head", "keep"),
        ({"head": "keep", "cut": {"drop_last": 0}}, "/head", "output"),
    ],
)
def test_a_head_that_cannot_be_kept_is_pointed_at(
    client: TestClient, thaw: "Thaw", changes: dict[str, Any], pointer: str, word: str
) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    response = client.post(JOBS, json={**body, **changes})
    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert problem["pointer"] == pointer
    assert word in problem["message"]


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("class_weights", {"c": 2.0}, "no class of this dataset"),
        ("class_weights", "fair", "balanced"),
        ("class_weights", {"a": -1}, "greater than or equal to 0"),
        ("label_smoothing", 1.0, "less than 1"),
        ("mixed_precision", "int8", "float16"),
    ],
)
def test_what_the_labels_cannot_have_is_pointed_at(
    client: TestClient, thaw: "Thaw", field: str, value: Any, word: str
) -> None:
    response = client.post(
        JOBS, json={"model": thaw.ready_model(), "training_file": thaw.ready_dataset(), field: value}
    )
    assert response.status_code == 422
    assert {problem["pointer"].split("/")[1] for problem in response.json()["errors"]} == {field}
    assert word in response.text


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("model", "model-0", "model-0"),
        ("training_file", "ds-0", "ds-0"),
        ("cut", {"layer": "hiden_2"}, "hidden_2"),
    ],
)
def test_what_a_job_names_must_exist(client: TestClient, thaw: "Thaw", field: str, value: Any, word: str) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset(), field: value}
    response = client.post(JOBS, json=body)
    assert response.status_code == 422
    problem = response.json()["errors"][0]
    assert problem["pointer"].startswith(f"/{field}")
    assert word in problem["message"]
    assert client.get(JOBS).json()["data"] == []


def test_a_plan_says_what_a_job_would_do_and_creates_nothing(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    plan = client.post(f"{JOBS}/plan", json=body)
    assert plan.status_code == 200
    assert plan.json()["object"] == "fine_tuning.job.plan"
    assert plan.json()["cut_layer"] == "hidden_2"
    assert plan.json()["dropped_layers"] == ["output"]
    assert [phase["name"] for phase in plan.json()["phases"]] == ["head", "all"]
    assert client.get(JOBS).json()["data"] == []


def test_a_plan_of_something_that_is_not_ready_is_422(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.upload(), "training_file": thaw.ready_dataset()}
    response = client.post(f"{JOBS}/plan", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/model"


def test_a_running_job_tells_its_attempt_phase_and_stages(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    claim = thaw.claim(identifier)
    thaw.run_epochs(claim, 2)
    job = client.get(f"{JOBS}/{identifier}").json()
    assert (job["status"], job["stage"]) == ("running", "training")
    assert job["attempt"]["number"] == 1
    assert job["attempt"]["worker"] == "worker-1"
    assert job["phase"] == {"index": 1, "name": "head", "epoch": 2, "epochs": 2}
    assert [stage["stage"] for stage in job["stage_history"]] == ["training"]
    assert 0 < job["progress"]["percent"] < 100
    assert isinstance(job["started_at"], int)


def test_a_succeeded_job_has_result_artifacts_and_report(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    thaw.succeed(thaw.claim(identifier))
    job = client.get(f"{JOBS}/{identifier}").json()
    assert (job["status"], job["progress"]["percent"], job["allowed_actions"]) == ("succeeded", 100.0, ["fork"])
    assert [artifact["name"] for artifact in job["artifacts"]] == ["model.keras", "labels.json"]
    assert job["artifacts"][0]["url"] == f"{JOBS}/{identifier}/artifacts/model.keras"
    assert job["report"]["test"]["accuracy"]["value"] == 0.95
    assert job["fine_tuned_model"].startswith("model-")


def test_a_failed_job_says_whose_fault_it_was(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    failure = Failure(error_class="capacity", code="out_of_memory", message="Not enough.", phase="head", retryable=True)
    reports.fail_job(thaw.services, thaw.claim(identifier), failure)
    job = client.get(f"{JOBS}/{identifier}").json()
    assert job["status"] == "failed"
    assert job["error"] == {
        "class": "capacity", "code": "out_of_memory", "message": "Not enough.", "param": None, "phase": "head",
        "retryable": True,
    }  # fmt: skip


def test_cancelling_a_queued_job_ends_it_and_asking_again_is_fine(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    first = client.post(f"{JOBS}/{identifier}/cancel")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    again = client.post(f"{JOBS}/{identifier}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


def test_cancelling_a_running_job_is_a_wish(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    thaw.claim(identifier)
    job = client.post(f"{JOBS}/{identifier}/cancel").json()
    assert job["status"] == "running"
    assert job["cancel_requested_at"] is not None


def test_cancelling_a_finished_job_is_409_with_its_status_and_what_is_allowed(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    thaw.succeed(thaw.claim(identifier))
    response = client.post(f"{JOBS}/{identifier}/cancel")
    assert response.status_code == 409
    problem = response.json()
    assert (problem["code"], problem["current_status"], problem["allowed_actions"]) == (
        "invalid_state_transition", "succeeded", ["fork"],
    )  # fmt: skip
    assert response.headers["X-Should-Retry"] == "false"


def test_exports_are_part_of_the_job_and_each_counts_once(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job(exports=["onnx", "saved_model", "onnx"])
    assert client.get(f"{JOBS}/{job}").json()["exports"] == ["onnx", "saved_model"]
    assert client.get(f"{JOBS}/{thaw.job()}").json()["exports"] == []
    thaw.succeed(thaw.claim(job), exports=[Export(format="onnx", status="failed", reason="It is too new.")])
    assert client.get(f"{JOBS}/{job}/report").json()["exports"][0]["reason"] == "It is too new."
    warnings = [each for each in client.get(f"{JOBS}/{job}/events").json()["data"] if each["level"] == "warn"]
    assert [each["message"] for each in warnings] == ["The export 'onnx' failed: It is too new."]


def test_pausing_a_queued_job_is_at_once_and_resuming_makes_it_wait_again(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    for _ in range(2):
        paused = client.post(f"{JOBS}/{identifier}/pause")
        assert (paused.status_code, paused.json()["status"]) == (200, "paused")
        assert paused.json()["allowed_actions"] == ["cancel", "resume", "fork"]
        assert paused.json()["pause_requested_at"] is not None
    for _ in range(2):
        resumed = client.post(f"{JOBS}/{identifier}/resume")
        assert (resumed.status_code, resumed.json()["status"]) == (200, "queued")
        assert resumed.json()["allowed_actions"] == ["cancel", "pause", "fork"]
        assert resumed.json()["pause_requested_at"] is None


def test_pausing_a_running_job_is_a_wish_that_resuming_withdraws(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    thaw.claim(identifier)
    asked = client.post(f"{JOBS}/{identifier}/pause").json()
    assert asked["status"] == "running"
    assert asked["pause_requested_at"] is not None
    assert client.post(f"{JOBS}/{identifier}/resume").json()["pause_requested_at"] is None


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_an_illegal_move_is_409_with_its_status_and_what_is_allowed(
    action: str, client: TestClient, thaw: "Thaw"
) -> None:
    identifier = thaw.job()
    thaw.succeed(thaw.claim(identifier))
    response = client.post(f"{JOBS}/{identifier}/{action}")
    assert response.status_code == 409
    problem = response.json()
    assert (problem["code"], problem["current_status"], problem["allowed_actions"]) == (
        "invalid_state_transition", "succeeded", ["fork"],
    )  # fmt: skip
    assert client.post(f"{JOBS}/ftjob-0/{action}").status_code == 404


@pytest.mark.parametrize("identifier", ["ftjob-0", "model-0", "%00", "a%20b", "..", "x" * 101])
def test_an_unknown_job_is_404_everywhere(client: TestClient, identifier: str) -> None:
    for suffix in ("", "/events", "/checkpoints", "/metrics", "/report", "/artifacts", "/artifacts/a"):
        response = client.get(f"{JOBS}/{identifier}{suffix}")
        assert response.status_code == 404, suffix
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("query", ["metadata[a]=%00", "metadata[%00]=a", "model=%00", "status=%00", "after=%00"])
def test_a_query_with_nul_is_refused_before_a_database_sees_it(client: TestClient, query: str) -> None:
    assert client.get(f"{JOBS}?{query}").status_code == 422


def test_text_with_nul_is_refused_before_a_database_sees_it(client: TestClient) -> None:
    body = r'{"model": "a\u0000b", "training_file": "c"}'
    response = client.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert "NUL" in response.json()["detail"]
    escaped = r'{"model": "a\\u0000b", "training_file": "c"}'  # a backslash and the text u0000
    response = client.post(JOBS, content=escaped, headers={"Content-Type": "application/json"})
    assert "NUL" not in response.json()["detail"]
