"""A job's status changes in one function, along the table of moves."""

import ast
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import pytest

from app.domain.errors import Failure
from app.domain.states import TERMINAL, TRANSITIONS, JobStatus
from app.services import claims, history, reports
from app.services import jobs as services_jobs
from app.services.context import Services
from app.services.sweep import sweep
from app.storage import events, jobs
from app.storage.database import now
from app.storage.tables import JobRow

APP = Path(__file__).resolve().parents[3] / "app"
STATUSES = get_args(JobStatus)
BROKEN = Failure(error_class="user", code="x", message="It is broken.")
ILLEGAL = [(old, new) for old, new in product(STATUSES, STATUSES) if new not in TRANSITIONS[old]]


@pytest.mark.parametrize(("old", "new"), ILLEGAL)
def test_a_move_that_the_table_does_not_have_is_a_mistake(old: JobStatus, new: JobStatus) -> None:
    with pytest.raises(ValueError, match="may move"):
        jobs.move(None, "default", "ftjob-x", old=old, new=new, news="")  # type: ignore[arg-type]  # it never gets so far


def test_every_move_that_is_written_down_anywhere_is_in_the_table() -> None:
    """`old=` and `new=` of every call of `jobs.move`, and of the functions that hand them on."""
    found = {move for path in APP.glob("s*/**/*.py") for move in _moves(ast.parse(path.read_text()))}
    assert {new for _, new in found} >= {"running", "queued", "failed", "cancelled"}
    assert {(old, new) for old, new in found if new not in TRANSITIONS[old]} == set()


def _moves(tree: ast.AST) -> Any:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "move":
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            old, new = named["old"], named["new"]
            if isinstance(old, ast.Constant) and isinstance(new, ast.Constant):
                yield old.value, new.value


def test_nothing_but_move_changes_a_status() -> None:
    """Neither `.status = …` nor `"status": …` in a job's values stands anywhere else."""
    found = set()
    for path in APP.glob("s*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr == "status" for target in targets):
                found.add(path.name)
            if isinstance(node, ast.Dict) and any(
                isinstance(key, ast.Constant) and key.value == "status" for key in node.keys
            ):
                found.add(path.name)
    # assets: models and datasets; jobs: `move`, and the data of events; idempotency: HTTP's.
    assert found <= {"assets.py", "jobs.py"}


def test_a_move_finds_the_row_only_as_it_was_told(world: Any, services: Services) -> None:
    job = world.job()
    moves = {"running": {"lease_expires_at": now() + 5}, "cancelled": {}}
    for new, values in moves.items():
        with services.db.begin() as session:
            wrong = [JobRow.attempt == 7]
            assert (
                jobs.move(session, "default", job.id, old="queued", new=new, news="", where=wrong, values=values)
                is None
            )
            assert jobs.move(session, "another", job.id, old="queued", new=new, news="", values=values) is None
    with services.db.begin() as session:
        assert jobs.move(session, "default", job.id, old="validating_files", new="queued", news="") is None
    assert world.get(job).status == "queued"


def test_terminal_statuses_have_a_time_and_the_others_have_not(world: Any) -> None:
    running = world.claim()
    assert world.get(running).finished_at is None
    job = world.succeed(running)
    assert job.status in TERMINAL
    assert job.finished_at is not None
    assert job.finished_at >= job.started_at >= job.created_at


def test_every_move_of_the_table_happens_and_its_event_tells_of_it(world: Any, services: Services) -> None:
    """Lives that go every way there is; where a job went is read from its events alone."""
    lives = [_to_success, _to_failures, _to_cancellations, _to_a_pause_and_back, _past_deadlines]
    told = {pair for life in lives for job in life(world, services) for pair in _told(services, job)}
    assert told == {(old, new) for old in STATUSES for new in TRANSITIONS[old]}


def _told(services: Services, job_id: str) -> list[tuple[str, str]]:
    found = history.events_since(services, "default", job_id, after_number=0)
    statuses = [str(event.data["status"]) for event in found if event.type in {"status", "completed"}]
    return list(pairwise(statuses))


def _to_success(world: Any, _services: Services) -> list[str]:
    job = world.job(model=world.file().id)
    world.finish_model(job.model_id)
    return [world.succeed(world.claim(job)).id]


def _to_failures(world: Any, services: Services) -> list[str]:
    waits = world.job(model=world.file().id)
    claim = claims.claim_model(services, waits.model_id, worker="w")
    assert claim is not None
    reports.fail_model(services, claim, BROKEN)
    return [waits.id, reports.fail_job(services, world.claim(), BROKEN).id]


def _to_cancellations(world: Any, services: Services) -> list[str]:
    waits, queued, paused, running = world.job(model=world.file().id), world.job(), world.job(), world.claim()
    services_jobs.request_pause(services, "default", paused.id)
    for job in (waits, queued, paused):
        services_jobs.request_cancel(services, "default", job.id)
    return [waits.id, queued.id, paused.id, reports.cancel_job(services, running).id]


def _to_a_pause_and_back(world: Any, services: Services) -> list[str]:
    claim = world.claim()
    claims.release(services, claim, charge_attempt=False)
    again = world.claim(claim.job)
    services_jobs.request_pause(services, "default", claim.identifier)
    claims.release(services, again, charge_attempt=False)
    services_jobs.resume(services, "default", claim.identifier)
    return [claim.identifier]


def _past_deadlines(world: Any, services: Services) -> list[str]:
    made = [world.job(model=world.file().id), world.job(), world.job()]
    services_jobs.request_pause(services, "default", made[2].id)
    for job in made:
        world.set(JobRow, job.id, deadline_at=1.0)
    sweep(services)
    return [job.id for job in made]


def test_a_move_whose_event_cannot_be_written_does_not_happen(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.job()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(events, "append", fail)
    with pytest.raises(ZeroDivisionError):
        claims.claim_job(services, job.id, worker="w")
    monkeypatch.undo()
    assert world.get(job).status == "queued"
    assert _told(services, job.id) == []
