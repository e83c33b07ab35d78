"""`thaw jobs` and `thaw plan`."""

import json
from pathlib import Path

import pytest

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import REPORT, FakeService, problem


@pytest.fixture
def succeeded(service: FakeService) -> str:
    job = service.add_job(status="succeeded", fine_tuned_model="model-9", report=REPORT)
    service.happen(job, "status", "The job runs.")
    service.happen(job, "metrics", "Phase 'head', epoch 1 of 4: loss 0.5", phase={"index": 1})
    service.happen(job, "completed", "The job succeeded.", status="succeeded")
    service.artifacts[job] = {"model.keras": b"weights", "labels.json": b"[]"}
    return job


def test_create_pushes_local_files_and_submits_with_their_ids(service: FakeService, run: Run) -> None:
    service.checks = 1
    Path("digits.keras").write_bytes(b"m")
    Path("digits.npz").write_bytes(b"d")
    Path("job.yaml").write_text("model: ./digits.keras\ntraining_file: ./digits.npz\nseed: 7\n")
    result = run("jobs", "create", "-f", "job.yaml", "--set", "batch_size=16")
    assert result.exit_code == 0, result.output
    (job,) = service.jobs.values()
    assert job["model"] == next(iter(service.models))
    assert job["training_file"] == next(iter(service.datasets))
    assert (job["seed"], job["batch_size"]) == (7, 16)
    assert result.stdout == f"{job['id']}\n"
    assert "Pushed digits.keras as model-" in result.stderr


def test_create_from_standard_input(service: FakeService, run: Run) -> None:
    result = run("jobs", "create", "-f", "-", "--json", input="model: model-1\ntraining_file: ds-1\n")
    assert json.loads(result.stdout) == next(iter(service.jobs.values()))


def test_create_needs_a_model_and_data_from_somewhere(run: Run) -> None:
    assert run("jobs", "create").exit_code == 2
    assert run("jobs", "create", "--model", "model-1", "--data", "ds-1").exit_code == 0


def test_a_wrong_request_shows_every_wrong_field(service: FakeService, run: Run) -> None:
    errors = [
        {"pointer": "/schedule/0/epochs", "code": "ge", "message": "At least 1"},
        {"pointer": "/head", "code": "x", "message": "Unknown layer", "allowed": ["dense", "dropout"]},
    ]
    service.answers = [problem(422, "invalid_request", "2 fields are wrong.", errors=errors)]
    result = run("jobs", "create", "--model", "model-1", "--data", "ds-1")
    assert result.exit_code == 1
    assert "/schedule/0/epochs: At least 1" in result.stderr
    assert "/head: Unknown layer (allowed: dense, dropout)" in result.stderr


def test_a_bad_job_file_is_exit_code_2_and_nothing_is_sent(service: FakeService, run: Run) -> None:
    Path("job.yaml").write_text("model: [")
    assert run("jobs", "create", "-f", "job.yaml").exit_code == 2
    assert run("plan", "-f", "absent.yaml").exit_code == 2
    assert service.requests == []


def test_list_says_where_each_job_is(service: FakeService, run: Run) -> None:
    phase = {"index": 1, "name": "head", "epoch": 2, "epochs": 4}
    running = service.add_job(status="running", phase=phase, progress={"percent": 12.5})
    queued = service.add_job()
    lines = {line.split()[0]: line for line in run("jobs", "list").stdout.splitlines() if line.split()}
    assert "head 2/4, 12 %" in lines[running]
    assert "number 2 in the queue" in lines[queued]
    only = json.loads(run("jobs", "list", "--status", "running", "--json").stdout)
    assert [job["id"] for job in only["data"]] == [running]


def test_list_sends_its_filters(service: FakeService, run: Run) -> None:
    assert run("jobs", "list", "--metadata", "team=shoes", "--model", "model-1").exit_code == 0
    assert service.requests[0].url.params["metadata[team]"] == "shoes"
    assert service.requests[0].url.params["model"] == "model-1"
    assert run("jobs", "list", "--metadata", "team").exit_code == 2


def test_show_of_a_finished_job_has_the_accuracy_with_its_interval(run: Run, succeeded: str) -> None:
    result = run("jobs", "show", succeeded)
    assert "Test accuracy 0.98 (95 % interval 0.9 to 0.99) on 54 examples." in result.stdout
    assert "Frozen variables stayed bit-identical in 1 of 1 phases." in result.stdout
    assert "The source is unchanged." in result.stdout
    assert "model-9" in result.stdout


def test_show_of_a_finished_job_says_what_became_of_its_exports(run: Run, succeeded: str) -> None:
    shown = run("jobs", "show", succeeded).stdout
    assert (
        "Export onnx differs from model.keras by at most 1.5e-06, the same class for 100.0% (54 test examples)."
        in shown
    )
    assert "Export litert failed: It differs." in shown


def test_show_of_a_failed_job_says_why_and_is_no_failure_of_the_command(service: FakeService, run: Run) -> None:
    error = {"class": "capacity", "code": "out_of_memory", "message": "Memory ran out.", "phase": "all"}
    result = run("jobs", "show", service.add_job(status="failed", error=error))
    assert result.exit_code == 0
    assert "Memory ran out. (out_of_memory)" in result.stdout


def test_cancel_of_a_running_job(service: FakeService, run: Run) -> None:
    job = service.add_job(status="running")
    assert run("jobs", "cancel", job).stdout == f"{job} is running; it was asked to stop.\n"
    assert json.loads(run("jobs", "cancel", job, "--json").stdout)["cancel_requested_at"] == 5


def test_pause_and_resume(service: FakeService, run: Run) -> None:
    job = service.add_job(status="running")
    assert run("jobs", "pause", job).stdout == f"{job} is running; it was asked to pause.\n"
    assert run("jobs", "resume", job).stdout == f"{job} is queued.\n"
    assert run("jobs", "pause", job).stdout == f"{job} is paused.\n"
    assert json.loads(run("jobs", "resume", job, "--json").stdout)["status"] == "queued"


def test_show_says_whether_interruptions_change_the_result(service: FakeService, run: Run) -> None:
    shown = run("jobs", "show", service.add_job(status="running", resume_fidelity="exact")).stdout
    assert "resume fidelity" in shown
    assert "exact" in shown


def test_cancel_of_a_job_that_succeeded_is_refused(run: Run, succeeded: str) -> None:
    result = run("jobs", "cancel", succeeded)
    assert result.exit_code == 1
    assert "It has succeeded." in result.stderr


def test_events_are_listed_or_followed(service: FakeService, run: Run, succeeded: str) -> None:
    listed = run("jobs", "events", succeeded, "--after", 1)
    assert [line.split("  ", 1)[1] for line in listed.stdout.splitlines()] == [
        "Phase 'head', epoch 1 of 4: loss 0.5",
        "The job succeeded.",
    ]
    followed = run("jobs", "events", succeeded, "--follow", "--json")
    assert [json.loads(line) for line in followed.stdout.splitlines()] == service.events[succeeded]


def test_download_saves_what_is_asked_for(run: Run, succeeded: str) -> None:
    result = run("jobs", "download", succeeded)
    assert (result.exit_code, result.stdout) == (0, "model.keras\n")
    assert Path("model.keras").read_bytes() == b"weights"
    everything = run("jobs", "download", succeeded, "--all", "-o", "results/shoes", "--json")
    assert json.loads(everything.stdout)["paths"] == [
        str(Path("results/shoes", name).absolute()) for name in ("model.keras", "labels.json")
    ]


def test_download_does_not_replace_files_and_then_fetches_nothing(
    service: FakeService, run: Run, succeeded: str
) -> None:
    Path("labels.json").write_text("mine")
    result = run("jobs", "download", succeeded, "model.keras", "labels.json")
    assert result.exit_code == 2
    assert not Path("model.keras").exists()
    assert Path("labels.json").read_text() == "mine"
    assert run("jobs", "download", succeeded, "labels.json", "--force").exit_code == 0
    assert Path("labels.json").read_text() == "[]"
    del service


def test_download_of_a_job_without_results_fails(service: FakeService, run: Run) -> None:
    result = run("jobs", "download", service.add_job(status="cancelled"))
    assert result.exit_code == 1
    assert "has no results: it is cancelled" in result.stderr
