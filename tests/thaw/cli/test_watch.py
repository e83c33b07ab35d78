"""`thaw jobs watch`: on a terminal, elsewhere, for programs; and its exit codes."""

import io
import json
import threading
from collections.abc import Iterator

import httpx2
import pytest
from rich.console import Console

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import REPORT, FakeService
from thaw.cli.output import Output
from thaw.cli.picture import Picture
from thaw.records import Event, Job, read

FAILURE = {"class": "user", "code": "illegal_cut", "message": "There is no layer 'x'.", "phase": "head"}


def finished(service: FakeService, status: str, **members: object) -> str:
    job = service.add_job(status=status, **members)
    service.happen(
        job, "phase", "Phase 'head' started.", phase=at(1, 0, 4), trainable_parameters=66, frozen_parameters=2080
    )
    for epoch in (1, 2):
        measured = {"loss": 1 / epoch, "val_accuracy": 0.5, "learning_rate": 0.01, "seconds": 1.0}
        service.happen(job, "metrics", f"Phase 'head', epoch {epoch}", phase=at(1, epoch, 4), metrics=measured)
    service.happen(job, "completed", f"The job {status}.", status=status)
    return job


def at(index: int, epoch: int, epochs: int) -> dict[str, object]:
    return {"index": index, "name": "head", "epoch": epoch, "epochs": epochs}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 120 columns shows."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(Output, "console", lambda _: console)
    return screen


def test_without_a_terminal_each_event_is_a_line_and_the_end_is_told(service: FakeService, run: Run) -> None:
    job = finished(service, "succeeded", report=REPORT, fine_tuned_model="model-9")
    result = run("jobs", "watch", job)
    assert result.exit_code == 0
    lines = [line.split("  ", 1)[-1] for line in result.stdout.splitlines()]
    assert lines[:3] == ["Phase 'head' started.", "Phase 'head', epoch 1", "Phase 'head', epoch 2"]
    assert f"{job} succeeded; its result is model-9." in lines
    assert "Test accuracy 0.98 (95 % interval 0.9 to 0.99) on 54 examples." in lines


def test_for_programs_each_event_is_a_json_line_and_nothing_else(service: FakeService, run: Run) -> None:
    job = finished(service, "succeeded")
    result = run("jobs", "watch", job, "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == service.events[job]


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_exit_code_says_how_the_job_ended(
    service: FakeService, run: Run, status: str, code: int, options: tuple[str, ...]
) -> None:
    job = finished(service, status, error=FAILURE if status == "failed" else None)
    assert run("jobs", "watch", job, *options).exit_code == code


def test_a_failed_job_says_why(service: FakeService, run: Run) -> None:
    result = run("jobs", "watch", finished(service, "failed", error=FAILURE))
    assert "failed: There is no layer 'x'. (illegal_cut, in phase head)" in result.stdout


def test_create_may_watch(service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job fails while it is watched, and so does the command."""
    add_job = service.add_job
    monkeypatch.setattr(service, "add_job", lambda **asked: finished_by(service, add_job(**asked)))
    result = run("jobs", "create", "--model", "model-1", "--data", "ds-1", "--watch", "--json")
    assert result.exit_code == 1
    created, *events = [json.loads(line) for line in result.stdout.splitlines()]
    assert created["object"] == "fine_tuning.job"
    assert [event["type"] for event in events] == ["completed"]


def finished_by(service: FakeService, job: str) -> str:
    service.jobs[job] |= {"status": "failed", "error": FAILURE}
    service.happen(job, "completed")
    return job


def test_ctrl_c_ends_the_watching_and_not_the_job(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.add_job(status="running")

    def interrupted(*_: object) -> Iterator[Event]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("thaw.resources.jobs.Jobs.events", interrupted)
    result = run("jobs", "watch", job)
    assert result.exit_code == 130
    assert f"thaw jobs watch {job}" in result.stderr
    assert [request.method for request in service.requests if request.method != "GET"] == []


def test_an_unknown_job_is_told_at_once(run: Run) -> None:
    assert run("jobs", "watch", "ftjob-absent").exit_code == 1


# === On a terminal ===


def test_on_a_terminal_the_last_picture_has_bars_and_figures(
    service: FakeService, run: Run, terminal: io.StringIO
) -> None:
    job = finished(service, "succeeded", report=REPORT)
    result = run("jobs", "watch", job)
    assert result.exit_code == 0, result.output
    picture = terminal.getvalue()
    assert f"{job} · succeeded" in picture
    assert "unfreeze last 2" in picture
    assert "loss 0.5  val_accuracy 0.5" in picture
    assert "learning_rate" not in picture


def test_on_a_terminal_an_error_of_the_stream_reaches_the_user(
    service: FakeService, run: Run, terminal: io.StringIO
) -> None:
    del terminal
    job = service.add_job(status="running")
    service.answers = [None, httpx2.Response(401, json={"detail": "The key was withdrawn."})]
    result = run("jobs", "watch", job)
    assert result.exit_code == 4
    assert "withdrawn" in result.stderr


def test_on_a_terminal_ctrl_c_detaches(
    service: FakeService, run: Run, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    del terminal
    job = service.add_job(status="running")
    never, looks = threading.Event(), 0

    def silent(*_: object) -> Iterator[Event]:
        never.wait(30)
        yield from ()

    def look(*_: object) -> None:
        nonlocal looks
        looks += 1
        raise KeyboardInterrupt

    monkeypatch.setattr("thaw.resources.jobs.Jobs.events", silent)
    monkeypatch.setattr("thaw.cli.watch._look", look)
    monkeypatch.setattr("thaw.cli.watch._LOOK_SECONDS", 0.01)
    result = run("jobs", "watch", job)
    never.set()
    assert (result.exit_code, looks) == (130, 1)


# === The picture ===


def drawn(picture: Picture) -> str:
    screen = io.StringIO()
    Console(file=screen, width=110, color_system=None).print(picture)
    return screen.getvalue()


def running(service: FakeService, **members: object) -> Job:
    job = service.add_job(status="running", stage="training", **members)
    return read(Job, service.jobs[job])


def heard(kind: str, **data: object) -> Event:
    return read(Event, {"number": 1, "type": kind, "data": data})


def test_the_picture_counts_epochs_and_shows_what_is_frozen(service: FakeService) -> None:
    picture = Picture(running(service, phase=at(1, 2, 4), progress={"percent": 10.4, "eta_seconds": 75.0}))
    picture.hear(heard("phase", phase=at(1, 0, 4), trainable_parameters=66, frozen_parameters=2080))
    picture.hear(heard("metrics", phase=at(1, 2, 4), metrics={"loss": 0.25, "seconds": 3.0}))
    shown = drawn(picture)
    assert "running · training" in shown
    head, everything = (line for line in shown.splitlines() if "unfreeze" in line)
    assert "2/4" in head
    assert "loss 0.25" in head
    assert "0/16" in everything
    assert "66 parameters train, 2,080 are frozen" in shown
    assert "10 %, about 1 min 15 s left" in shown


def test_a_phase_that_stopped_early_is_complete(service: FakeService) -> None:
    picture = Picture(running(service, phase=at(2, 1, 16)))
    picture.hear(heard("metrics", phase=at(1, 3, 4), metrics={"loss": 0.25}))
    assert "━" * 24 not in drawn(picture).splitlines()[1]
    picture.hear(heard("phase", phase=at(1, 3, 4), stopped_early=True, proof={"held": True}))
    assert "3/4 early" in drawn(picture)
    assert "━" * 24 in drawn(picture).splitlines()[1]


def test_watching_from_the_middle_shows_earlier_phases_as_done(service: FakeService) -> None:
    assert "4/4" in drawn(Picture(running(service, phase=at(2, 1, 16))))


def test_a_new_attempt_begins_with_empty_bars(service: FakeService) -> None:
    first = running(service, phase=at(1, 3, 4), attempt={"number": 1})
    picture = Picture(first)
    picture.hear(heard("metrics", phase=at(1, 3, 4), metrics={"loss": 0.25}))
    picture.see(read(Job, {**first.raw, "attempt": {"number": 2}, "phase": None}))
    shown = drawn(picture)
    assert "attempt 2" in shown
    assert "0/4" in shown
    assert "loss" not in shown


def test_a_service_that_is_away_is_shown_and_nothing_is_lost(service: FakeService) -> None:
    picture = Picture(running(service))
    picture.see(None)
    assert "does not answer, trying again" in drawn(picture)
    picture.see(picture.job)
    assert "trying again" not in drawn(picture)


def test_events_of_unknown_kinds_are_passed_over(service: FakeService) -> None:
    picture = Picture(running(service))
    before = drawn(picture)
    for data in ({}, {"phase": "head"}, {"phase": {"index": "one"}}, {"phase": {"index": 9, "epoch": None}}):
        picture.hear(heard("weather", **data))
    assert drawn(picture) == before
