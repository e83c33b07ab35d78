"""What must be true after a run, read from database and store alone.

the database         is whole, as SQLite's own checks say
every 201            has a row, and one status that is never left (or `paused`, where that was asked for)
every key            has made one job
every history        is numbered without gaps, but for compacted events, makes legal moves only, counts attempts by one,
                     ends once
every write          of an attempt stands between the attempt's beginning and its end (`writes`)
every success        has one result, published by the attempt that has the job: the files of an undisturbed run, all
                     with the right bytes, and its weights
everything else      has no result
every failure        is of a job that was given up rightly (`losses`)
every cancel         that was answered with 200 is known; of one that said `cancelled`, the job is
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.domain.states import MAX_ATTEMPTS, TERMINAL, TRANSITIONS
from tests.chaos import losses, writes
from tests.chaos.clients import KEY, Accepted
from tests.chaos.evidence import Evidence, Row, parsed

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
RESULT = "model.keras"
LOST = frozenset(
    (
        *("worker_lost", "process_not_started", "worker_failed"),
        *("training_process_crashed", "training_process_killed", "training_process_ended", "training_process_stalled"),
    )
)
"""Why a job fails whose attempts were all lost."""
_ROOM_AGAIN = "There may be room on the disk again"
"""What the event says by which a job goes on that was set aside, and that nobody resumed."""


@dataclass
class Verdict:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the jobs that were answered with 201."""
    attempts: int = 0
    """Of all of them together."""
    given_up: int = 0
    """Jobs that failed because three attempts in a row were lost with nothing kept: nobody's fault, but shown."""
    resumed_by_itself: int = 0
    """How often a job that a full disk had set aside was put back by a sweeper."""
    compared: int = 0
    """Results whose weights were compared."""
    remarks: list[str] = field(default_factory=list)
    """What the run does not show."""

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "statuses": dict(self.statuses)}


@dataclass(frozen=True)
class Books:
    """All rows that the checks look at, by job."""

    jobs: Mapping[str, Row]
    events: Mapping[str, list[Row]]
    metrics: Mapping[str, list[Row]]
    checkpoints: Mapping[str, list[Row]]
    results: Mapping[str, list[Row]]


def check(evidence: Evidence, accepted: Sequence[Accepted], references: Mapping[str, str]) -> Verdict:
    """Look at everything. `references`: for each kind of job the id of one that ran undisturbed."""
    books = _read(evidence)
    verdict = Verdict()
    verdict.violations += [f"the database is damaged: {each}" for each in evidence.damage()]
    verdict.violations += _keys(books)
    for job in accepted:
        verdict.violations += [f"{job.id} ({job.errand.kind}): {each}" for each in _accepted(books, job)]
    for job_id, row in books.jobs.items():
        found = [*_history(books, row), *_writes(books, row["id"]), *_result(evidence, books, row)]
        verdict.violations += [f"{job_id}: {each}" for each in found]
        verdict.resumed_by_itself += sum(_ROOM_AGAIN in event["message"] for event in books.events[job_id])
    _compare(evidence, books, accepted, references, verdict)
    return verdict


# === Read ===


def _read(evidence: Evidence) -> Books:
    return Books(
        jobs={row["id"]: row for row in evidence.rows("SELECT * FROM jobs ORDER BY created_at, id")},
        events=_by_job(evidence.rows("SELECT * FROM events ORDER BY job_id, number")),
        metrics=_by_job(evidence.rows("SELECT * FROM metrics ORDER BY job_id, number")),
        checkpoints=_by_job(evidence.rows("SELECT * FROM checkpoints ORDER BY job_id, attempt, number")),
        # Models that were made of checkpoints name their job as well, but have a reference.
        results=_by_job(evidence.rows("SELECT * FROM models WHERE job_id IS NOT NULL AND reference IS NULL")),
    )


def _by_job(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["job_id"]].append(row)
    return found


# === Promises to clients ===


def _keys(books: Books) -> Iterator[str]:
    keys = Counter(parsed(row["metadata"]).get(KEY) for row in books.jobs.values())
    for key, count in keys.items():
        if key is not None and count > 1:
            yield f"the key {key} made {count} jobs"


def _accepted(books: Books, job: Accepted) -> Iterator[str]:
    row = books.jobs.get(job.id)
    if row is None:
        yield "was answered with 201 and is not there"
        return
    status = row["status"]
    if status not in TERMINAL and not (status == "paused" and job.errand.wish == "leave paused"):
        yield f"has not ended: {status}"
    if job.ended is not None and job.ended != status:
        yield f"its client saw it {job.ended}, and now it is {status}"
    if parsed(row["metadata"]).get(KEY) != job.key:
        yield "the 201 named the job of another key"
    if status == "cancelled" and job.errand.wish != "cancel":
        yield "was cancelled, which nobody asked for"
    if job.cancel_answer == "cancelled" and status != "cancelled":
        yield f"the answer to its cancel said cancelled, and now it is {status}"
    if job.cancel_answer and row["cancel_requested_at"] is None:
        yield "its cancel was answered with 200, and nothing is known of it"


# === Histories ===


def _history(books: Books, row: Row) -> Iterator[str]:
    events = books.events[row["id"]]
    numbers = [number for event in events for number in _numbers(event)]
    if numbers != list(range(1, row["event_count"] + 1)):
        yield f"its events have gaps: {numbers}, {row['event_count']} counted"
    ends = [event["number"] for event in events if event["type"] == "completed"]
    if ends != ([row["event_count"]] if row["status"] in TERMINAL else []):
        yield f"it is {row['status']}, and its history of {row['event_count']} events ends at {ends}"
    times = [event["created_at"] for event in events]
    if any(later < earlier - writes.CLOCK_SECONDS for earlier, later in itertools.pairwise(times)):
        yield "its events are not in the order of their times"
    yield from _moves(_statuses(events), row)


def _numbers(event: Row) -> Sequence[int]:
    """The number of an event, or of all those that it stands for."""
    if event["type"] != "compacted":
        return [event["number"]]
    stands_for = parsed(event["data"])
    return range(stands_for["first"], stands_for["last"] + 1)


def _statuses(events: Sequence[Row]) -> list[dict[str, Any]]:
    return [parsed(event["data"]) for event in events if event["type"] in {"status", "completed"}]


def _moves(told: Sequence[Mapping[str, Any]], row: Row) -> Iterator[str]:
    if not told or told[0]["status"] not in {"queued", "validating_files"} or told[0]["attempt"] != 0:
        yield f"it begins with {told[:1]}"
        return
    for old, new in itertools.pairwise(told):
        if new["status"] not in TRANSITIONS[old["status"]]:
            yield f"it moved from {old['status']} to {new['status']}"
        expected = old["attempt"] + (1 if new["status"] == "running" else 0)
        if new["attempt"] != expected:
            yield f"a move to {new['status']} has attempt {new['attempt']} instead of {expected}"
    if (told[-1]["status"], told[-1]["attempt"]) != (row["status"], row["attempt"]):
        yield f"its history ends with {told[-1]}, its row says {row['status']}, attempt {row['attempt']}"
    if row["lost_attempts"] >= MAX_ATTEMPTS:
        yield f"it goes on after {row['lost_attempts']} lost attempts"


def _writes(books: Books, job_id: str) -> Iterator[str]:
    return writes.objections(books.events[job_id], books.metrics[job_id], books.checkpoints[job_id])


# === Results ===


def _result(evidence: Evidence, books: Books, row: Row) -> Iterator[str]:
    results = [model["id"] for model in books.results[row["id"]]]
    if row["status"] != "succeeded":
        if results or row["result_model_id"] or parsed(row["artifacts"]):
            yield f"it is {row['status']} and has results: {results}"
        return
    if results != [row["result_model_id"]]:
        yield f"its result is {row['result_model_id']}, and it has made {results}"
        return
    model = books.results[row["id"]][0]
    artifacts = parsed(row["artifacts"])
    for each in [*artifacts, *parsed(model["canonical"]), *parsed(model["download"])]:
        found = evidence.blob(each["sha256"])
        if found is None or found.sha256 != each["sha256"]:
            yield f"the file {each['name']} is missing or damaged"
        elif found.bytes != each["bytes"]:
            yield f"the file {each['name']} has another size"
    yield from _manifest(evidence, artifacts)


def _manifest(evidence: Evidence, artifacts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    by_name = {each["name"]: each for each in artifacts}
    if not {MANIFEST, RESULT} <= by_name.keys():
        yield f"it has no {MANIFEST} or no {RESULT}: {sorted(by_name)}"
        return
    content = evidence.store.content(by_name[MANIFEST]["sha256"])
    if content is None:
        return  # told already
    manifest = json.loads(content)
    listed = {each["name"]: (each["sha256"], each["bytes"]) for each in manifest["files"]}
    stored = {name: (each["sha256"], each["bytes"]) for name, each in by_name.items() if name != MANIFEST}
    if listed != stored:
        yield f"its manifest does not describe its files: {sorted(set(listed.items()) ^ set(stored.items()))}"


def _weights(evidence: Evidence, books: Books, job_id: str) -> str | None:
    """sha256 of the file of weights, as the file itself says."""
    for model in books.results.get(job_id, []):
        for each in parsed(model["canonical"]):
            if each["name"] == WEIGHTS:
                found = evidence.blob(each["sha256"])
                return found.sha256 if found else None
    return None


def _compare(
    evidence: Evidence,
    books: Books,
    accepted: Sequence[Accepted],
    references: Mapping[str, str],
    verdict: Verdict,
) -> None:
    """Results with those of the undisturbed jobs; failures with what a job may fail of."""
    wanted = {kind: _weights(evidence, books, job_id) for kind, job_id in references.items()}
    for kind, weights in wanted.items():
        if weights is None:
            verdict.violations.append(f"the undisturbed job of kind '{kind}' has no weights")
    for job in accepted:
        row = books.jobs.get(job.id)
        if row is None:
            continue
        kind = job.errand.kind
        verdict.statuses[row["status"]] += 1
        verdict.attempts += row["attempt"]
        found: list[str] = []
        if row["status"] == "succeeded":
            weights = _weights(evidence, books, job.id)
            verdict.compared += None not in {weights, wanted[kind]}
            found += _differences(row, books.jobs[references[kind]])
            if weights != wanted[kind]:
                found.append("its weights are not those of an undisturbed run")
        if row["status"] == "failed":
            found += _failure(books, row)
            verdict.given_up += not found
        verdict.violations += [f"{job.id} ({kind}): {each}" for each in found]
    if not verdict.statuses["succeeded"]:
        verdict.remarks.append("no job succeeded, so no weights were compared")
    elif not verdict.compared:
        verdict.violations.append("jobs succeeded, and no weights were compared")


def _differences(row: Row, reference: Row) -> Iterator[str]:
    names, wanted = ({each["name"] for each in parsed(job["artifacts"])} for job in (row, reference))
    if names != wanted:
        yield f"its files are not those of an undisturbed run, which differ in {sorted(names ^ wanted)}"


def _failure(books: Books, row: Row) -> Iterator[str]:
    """A job may fail only because it was given up, and rightly."""
    error = parsed(row["error"])
    if error["code"] not in LOST or row["lost_attempts"] != MAX_ATTEMPTS - 1:
        yield f"it failed: {error['code']}, {error['message']}"
        return
    yield from losses.objections(books.events[row["id"]])
