"""A short chaos run of fixed acts, and what the checker says of books that were tampered with afterwards."""

import dataclasses
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.storage import compaction
from app.storage.database import Database
from tests.chaos import acts, checker, disks
from tests.chaos.acts import Act
from tests.chaos.clients import Accepted
from tests.chaos.evidence import Evidence, Folder
from tests.chaos.quick import LEASE_SECONDS
from tests.chaos.run import Options, Outcome, chaos

pytestmark = [pytest.mark.service, pytest.mark.tensorflow, pytest.mark.timeout(900)]

ACTS = [
    Act(1, "kill", "child", pick=0, after_seconds=0.5, patient=True),
    Act(2, "flush", "broker", pick=0, after_seconds=0.5, patient=False),
    Act(3, "kill", "api", pick=0, after_seconds=0.5, patient=False),
    Act(4, "shuffle", "broker", pick=0, after_seconds=0.1, patient=False),
    Act(5, "kill", "broker", pick=0, after_seconds=0.5, patient=False),
    Act(6, "fill", "disk", pick=0, after_seconds=0.5, patient=True, seconds=1.0),
    Act(7, "stop", "worker", pick=0, after_seconds=0.5, patient=True, seconds=LEASE_SECONDS + 1),
]
"""One of each kind, the dearest last."""
SEED = 36
"""With it one of the jobs is cancelled, one is paused and resumed, and one is left paused."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("chaos")
    log = folder / "acts.jsonl"
    log.write_text("".join(json.dumps(dataclasses.asdict(act)) + "\n" for act in ACTS))
    return chaos(Options(folder=folder, jobs=6, kills=4, seed=SEED, kinds=2, replay=log))


def test_every_job_that_was_accepted_ends_once_with_the_weights_of_an_undisturbed_run(outcome: Outcome) -> None:
    summary = outcome.summary
    assert summary["violations"] == []
    assert summary["done"]["kill"] == {"child": 1, "api": 1, "broker": 1}
    assert summary["done"]["stop"] == {"worker": 1}
    assert summary["done"].get("fill", {}) == ({"disk": 1} if disks.mountable() else {})
    assert summary["accepted"] == 6
    assert summary["compared"] >= 4
    assert summary["statuses"]["paused"] == 1
    assert summary["attempts"] > 6


def test_what_was_done_can_be_done_again_from_its_log(outcome: Outcome) -> None:
    assert acts.read_log(_store(outcome.evidence).parents[2] / "disorder.jsonl") == ACTS


# === The checker sees ===


@pytest.fixture
def books(outcome: Outcome, tmp_path: Path) -> Evidence:
    """A copy of the database that may be written to; the store is the run's own."""
    path = tmp_path / "thaw.db"
    with closing(sqlite3.connect(outcome.evidence.database)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    return Evidence(path, outcome.evidence.store)


TAMPERED: dict[str, tuple[str, str]] = {
    "a row that refers to nothing": (
        "UPDATE jobs SET project = 'gone' WHERE id = :job",
        "of jobs refers to nothing",
    ),
    "a job that is gone": ("DELETE FROM jobs WHERE id = :job", "is not there"),
    "an event that is gone": ("DELETE FROM events WHERE job_id = :job AND number = 3", "have gaps"),
    "an attempt that is skipped": (
        "UPDATE events SET data = json_set(data, '$.attempt', 9) WHERE job_id = :job AND type = 'completed'",
        "has attempt 9",
    ),
    "a move that there is not": (
        "UPDATE events SET data = json_set(data, '$.status', 'paused') WHERE job_id = :job AND number = 1",
        "begins with",
    ),
    "a second result": (
        (
            "CREATE TEMP TABLE copy AS SELECT * FROM models WHERE job_id = :job; UPDATE copy SET id = 'model-2'; "
            "INSERT INTO models SELECT * FROM copy"
        ),
        "has made",
    ),
    "a write after the end": (
        "UPDATE metrics SET created_at = created_at + 9999 WHERE job_id = :job AND number = 1",
        "wrote metrics 1 at a time when it was not the holder",
    ),
    "a checkpoint after the end": (
        "UPDATE checkpoints SET created_at = created_at + 9999 WHERE job_id = :job",
        "at a time when it was not the holder",
    ),
    "news of before the beginning": (
        "UPDATE events SET created_at = created_at - 9999 WHERE job_id = :job AND type = 'stage'",
        "when it was not the holder",
    ),
    "events in another order": (
        "UPDATE events SET created_at = created_at - 9999 WHERE job_id = :job AND number = 3",
        "not in the order of their times",
    ),
    "epochs in other places": ("UPDATE metrics SET number = number + 100 WHERE job_id = :job", "epochs are numbered"),
    "a move that nobody may make": (
        (
            "UPDATE events SET data = json_set(data, '$.status', 'paused') WHERE number = "
            "(SELECT max(number) FROM events WHERE job_id = :job AND type = 'status') AND job_id = :job"
        ),
        "it moved from paused to succeeded",
    ),
    "an end that is none": (
        "UPDATE events SET type = 'status' WHERE job_id = :job AND type = 'completed'",
        "ends at []",
    ),
    "an attempt that no event tells of": (
        "UPDATE jobs SET attempt = attempt + 1 WHERE id = :job",
        "its history ends with",
    ),
    "more lost attempts than there may be": (
        "UPDATE jobs SET lost_attempts = 3 WHERE id = :job",
        "it goes on after 3 lost attempts",
    ),
    "a job that never ends": (
        "UPDATE jobs SET status = 'paused', finished_at = NULL, result_model_id = NULL WHERE id = :job",
        "has not ended: paused",
    ),
    "a failure that is nobody's loss": (
        (
            "UPDATE jobs SET status = 'failed', result_model_id = NULL, "
            """error = '{"code": "internal_error", "message": "KeyError"}' WHERE id = :job"""
        ),
        "it failed: internal_error, KeyError",
    ),
    "results of a job that has none": (
        "UPDATE jobs SET status = 'cancelled', result_model_id = NULL WHERE id = :job",
        "it is cancelled and has results",
    ),
    "a cancel that nobody wanted": (
        "UPDATE jobs SET status = 'cancelled', result_model_id = NULL WHERE id = :job",
        "was cancelled, which nobody asked for",
    ),
    "a result of an attempt that is not the last": (
        (
            "UPDATE events SET data = json_set(data, '$.stage', 'evaluating') "
            "WHERE job_id = :job AND type = 'stage' AND json_extract(data, '$.stage') = 'exporting'"
        ),
        "which had not told that it exports one",
    ),
    "a job of another key": (
        "UPDATE jobs SET metadata = json_set(metadata, '$.chaos_key', 'another') WHERE id = :job",
        "the job of another key",
    ),
    "a file of another size": (
        "UPDATE jobs SET artifacts = json_set(artifacts, '$[0].bytes', 1) WHERE id = :job",
        "has another size",
    ),
    "no files": ("UPDATE jobs SET artifacts = '[]' WHERE id = :job", "it has no manifest.json or no model.keras: []"),
    "a key used twice": (
        "UPDATE jobs SET metadata = json_set(metadata, '$.chaos_key', 'chaos-0')",
        "the key chaos-0 made",
    ),
    "a file that the manifest does not have": (
        "UPDATE jobs SET artifacts = json_remove(artifacts, '$[1]') WHERE id = :job",
        "does not describe its files",
    ),
    "an undisturbed job without weights": ("UPDATE models SET canonical = '[]'", "has no weights"),
    "a result without weights": ("UPDATE models SET canonical = '[]'", "no weights were compared"),
    "another end than its client saw": (
        "UPDATE jobs SET status = 'cancelled', result_model_id = NULL WHERE id = :job",
        "its client saw it succeeded",
    ),
}


def _store(evidence: Evidence) -> Path:
    assert isinstance(evidence.store, Folder)
    return evidence.store.path


def _succeeded(outcome: Outcome) -> Accepted:
    return next(job for job in outcome.accepted if (job.errand.wish, job.ended) == ("finish", "succeeded"))


@pytest.mark.parametrize("name", TAMPERED)
def test_the_checker_sees(name: str, outcome: Outcome, books: Evidence) -> None:
    statement, expected = TAMPERED[name]
    with closing(sqlite3.connect(books.database)) as connection, connection:
        for each in statement.split("; "):
            connection.execute(each, {"job": _succeeded(outcome).id})
    violations = checker.check(books, outcome.accepted, outcome.references).violations
    assert any(expected in violation for violation in violations), violations


def test_the_checker_tells_compacted_events_from_lost_ones(outcome: Outcome, books: Evidence) -> None:
    job_id = _succeeded(outcome).id
    db = Database(f"sqlite:///{books.database}")
    with db.begin() as session:
        assert compaction.compact(session, "default", job_id, limit=1000) > 0
    db.close()
    assert checker.check(books, outcome.accepted, outcome.references).violations == []
    with closing(sqlite3.connect(books.database)) as connection, connection:
        connection.execute("DELETE FROM events WHERE job_id = ? AND type = 'compacted'", [job_id])
    violations = checker.check(books, outcome.accepted, outcome.references).violations
    assert [violation for violation in violations if "have gaps" in violation]


def test_the_checker_sees_a_damaged_file(outcome: Outcome, books: Evidence, tmp_path: Path) -> None:
    store = Folder(tmp_path / "store")
    shutil.copytree(_store(books), store.path)
    (row,) = books.rows("SELECT artifacts FROM jobs WHERE id = ?", _succeeded(outcome).id)
    path = store.path_of(json.loads(row["artifacts"])[0]["sha256"])
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    violations = checker.check(Evidence(books.database, store), outcome.accepted, outcome.references).violations
    assert any("missing or damaged" in violation for violation in violations)


def test_the_checker_sees_a_file_that_neither_job_nor_manifest_has(
    outcome: Outcome, books: Evidence, tmp_path: Path
) -> None:
    store = Folder(tmp_path / "store")
    shutil.copytree(_store(books), store.path)
    job_id = _succeeded(outcome).id
    (row,) = books.rows("SELECT artifacts FROM jobs WHERE id = ?", job_id)
    left = [each for each in json.loads(row["artifacts"]) if each["name"] != "labels.json"]
    (listed,) = [each for each in left if each["name"] == checker.MANIFEST]
    manifest = json.loads(store.path_of(listed["sha256"]).read_bytes())
    manifest["files"] = [each for each in manifest["files"] if each["name"] != "labels.json"]
    content = json.dumps(manifest).encode()
    listed |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    store.path_of(listed["sha256"]).parent.mkdir(parents=True, exist_ok=True)
    store.path_of(listed["sha256"]).write_bytes(content)
    with closing(sqlite3.connect(books.database)) as connection, connection:
        connection.execute("UPDATE jobs SET artifacts = ? WHERE id = ?", [json.dumps(left), job_id])
    violations = checker.check(Evidence(books.database, store), outcome.accepted, outcome.references).violations
    assert [each.partition(": ")[2] for each in violations] == [
        "its files are not those of an undisturbed run, which differ in ['labels.json']"
    ]


def test_the_checker_sees_a_job_that_was_given_up_too_soon(outcome: Outcome, books: Evidence) -> None:
    job = _succeeded(outcome)
    job = dataclasses.replace(job, id=outcome.references[job.errand.kind])  # which was never lost
    failure = json.dumps({"code": "worker_lost", "message": "The worker was lost."})
    with closing(sqlite3.connect(books.database)) as connection, connection:
        given_up = "status = 'failed', lost_attempts = 2, result_model_id = NULL, error = ?"
        connection.execute(f"UPDATE jobs SET {given_up} WHERE id = ?", [failure, job.id])  # noqa: S608 (ours)
    verdict = checker.check(books, [job], outcome.references)
    assert any("it was given up after the loss of" in violation for violation in verdict.violations)
    assert verdict.given_up == 0


def test_the_checker_sees_a_cancel_that_was_granted_and_lost(outcome: Outcome) -> None:
    job = dataclasses.replace(_succeeded(outcome), cancel_answer="cancelled")
    violations = checker.check(outcome.evidence, [job], outcome.references).violations
    assert [each.partition(": ")[2] for each in violations] == [
        "the answer to its cancel said cancelled, and now it is succeeded",
        "its cancel was answered with 200, and nothing is known of it",
    ]


def test_a_run_in_which_nothing_succeeded_says_so(outcome: Outcome) -> None:
    verdict = checker.check(outcome.evidence, [], outcome.references)
    assert (verdict.violations, verdict.remarks) == ([], ["no job succeeded, so no weights were compared"])
    assert outcome.summary["remarks"] == []


def test_the_checker_sees_other_weights(outcome: Outcome) -> None:
    (one, other) = outcome.references.items()
    swapped = {one[0]: other[1], other[0]: one[1]}
    violations = checker.check(outcome.evidence, outcome.accepted, swapped).violations
    assert any("not those of an undisturbed run" in violation for violation in violations)
