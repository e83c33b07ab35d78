"""A job's status changes in one function, along the table of moves."""

import ast
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from app.domain.states import TERMINAL, TRANSITIONS, JobStatus
from app.services.context import Services
from app.storage import jobs
from app.storage.database import now
from app.storage.tables import JobRow

APP = Path(__file__).resolve().parents[3] / "app"
STATUSES = get_args(JobStatus)
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
