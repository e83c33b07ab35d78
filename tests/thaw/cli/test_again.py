"""`thaw jobs retry`, `thaw jobs fork`, and what the command line shows of priorities, places and limits."""

import json
from pathlib import Path

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService


def test_retry_prints_the_id_of_the_new_job(service: FakeService, run: Run) -> None:
    failed = service.add_job(status="failed", seed=7)
    result = run("jobs", "retry", failed, "--priority", "high", "--max-seconds", 60)
    made = list(service.jobs.values())[-1]
    assert result.stdout == f"{made['id']}\n"
    assert (made["retry_of"], made["priority"], made["max_seconds"]) == (failed, "high", 60)
    assert json.loads(service.requests[0].content) == {"priority": "high", "max_seconds": 60}


def test_retry_of_a_running_job_is_refused(service: FakeService, run: Run) -> None:
    result = run("jobs", "retry", service.add_job(status="running"))
    assert result.exit_code == 1
    assert "It is running." in result.stderr


def test_fork_sends_what_is_to_be_different(service: FakeService, run: Run) -> None:
    job = service.add_job(status="succeeded")
    Path("longer.yaml").write_text("schedule:\n  - {name: all, unfreeze: all, epochs: 8}\n")
    result = run("jobs", "fork", job, "--after", "head", "-f", "longer.yaml", "--set", "seed=7", "--json")
    made = json.loads(result.stdout)
    assert made["forked_from"] == {"job": job, "checkpoint": "ckpt-1"}
    assert json.loads(service.requests[0].content) == {
        "after_phase": "head",
        "schedule": [{"name": "all", "unfreeze": "all", "epochs": 8}],
        "seed": 7,
    }


def test_fork_needs_nothing_but_a_job(service: FakeService, run: Run) -> None:
    assert run("jobs", "fork", service.add_job(status="running")).exit_code == 0
    assert json.loads(service.requests[0].content) == {}


def test_create_sends_the_priority(service: FakeService, run: Run) -> None:
    assert run("jobs", "create", "--model", "model-1", "--data", "ds-1", "--priority", "low").exit_code == 0
    assert next(iter(service.jobs.values()))["priority"] == "low"
    assert run("jobs", "create", "--model", "m", "--data", "d", "--priority", "urgent").exit_code == 2


def test_show_says_where_a_job_stands_what_limits_it_and_where_it_comes_from(service: FakeService, run: Run) -> None:
    job = service.add_job(
        priority="high", max_seconds=3600, deadline_at=1_800_000_000, retry_of="ftjob-1",
        forked_from={"job": "ftjob-0", "checkpoint": "ckpt-0"}, progress={"queue_position": 3, "eta_seconds": 300},
    )  # fmt: skip
    shown = run("jobs", "show", job).stdout
    for words in ("number 3 in the queue, done in about 5 min 0 s", "high", "1 h 0 min", "2027-01-15", "ftjob-1"):
        assert words in shown
    assert "ftjob-0 at ckpt-0" in shown
    assert "priority" not in run("jobs", "show", service.add_job(priority="normal")).stdout


def test_list_asks_for_the_places_that_lists_leave_out(service: FakeService, run: Run) -> None:
    for _ in range(25):
        service.add_job()
    service.add_job(status="running")
    run("jobs", "list", "--all")
    asked = [request.url.path for request in service.requests if request.url.path.count("/") == 4]
    assert len(asked) == 20
