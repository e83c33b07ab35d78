"""Whether attempts wrote only while they held their job, by what they wrote and by events.

    running 1 …………… queued   running 2 …… exporting, completed 2
              '--------------'       '---------------------'
      nothing of 1 after its end     the result is made by the attempt that has the job

A result names no attempt: `completed` has the number that the job's row had, and so have stages. So the last attempt
must have told that it exports; else an earlier one published in its place. Not seen is one that does so when the last
attempt has told it, too, nor one that may tell stages in the name of the last.
"""

import json
from collections.abc import Iterator, Sequence

from tests.chaos.evidence import Row, parsed

CLOCK_SECONDS = 1e-3
"""Times are the database's own; this is for rounding."""
_MOVES = frozenset({"status", "completed"})


def objections(events: Sequence[Row], metrics: Sequence[Row], checkpoints: Sequence[Row]) -> Iterator[str]:
    """What speaks against the writes of a job's attempts; all rows in their order."""
    spans = _spans(events)
    for name, rows in (("metrics", metrics), ("checkpoint", checkpoints)):
        for each in rows:
            if not _held(spans, each["attempt"], each["created_at"]):
                yield f"attempt {each['attempt']} wrote {name} {each['number']} at a time when it was not the holder"
    for event in events:
        attempt = parsed(event["data"]).get("attempt")
        if attempt and event["type"] not in _MOVES and not _held(spans, attempt, event["created_at"]):
            yield f"attempt {attempt} told event {event['number']} when it was not the holder"
    numbers = [each["number"] for each in metrics]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its epochs are numbered {numbers}"
    yield from _publication(events)


def refusals(logs: str, job_id: str, attempt: int) -> list[str]:
    """The reasons for which the supervisor of this attempt gave up, as far as the database refused it a write.

    Only a compare-and-set that found no row says "no longer holds", be it of a renewal or of a report, whichever came
    first. One that gives up by itself, as it is late, says something else.
    """
    found = []
    for line in logs.splitlines():
        if '"lease lost"' not in line:
            continue
        facts = json.loads(line)
        reason = facts.get("reason", "")
        if (facts["event"], facts.get("job_id"), facts.get("attempt")) == ("lease lost", job_id, attempt) and (
            reason.startswith(f"Attempt {attempt} no longer holds '{job_id}'")
        ):
            found.append(reason)
    return found


def _publication(events: Sequence[Row]) -> Iterator[str]:
    """Of a success."""
    told = [(event["type"], parsed(event["data"])) for event in events]
    ends = [data["attempt"] for kind, data in told if kind == "completed" and data["status"] == "succeeded"]
    exported = {data["attempt"] for kind, data in told if kind == "stage" and data["stage"] == "exporting"}
    for attempt in ends:
        if attempt not in exported:
            yield f"a result was published in attempt {attempt}, which had not told that it exports one"


def _held(spans: dict[int, tuple[float, float]], attempt: int, at: float) -> bool:
    began, ended = spans.get(attempt, (float("inf"), 0.0))
    return began - CLOCK_SECONDS <= at <= ended + CLOCK_SECONDS


def _spans(events: Sequence[Row]) -> dict[int, tuple[float, float]]:
    """When each attempt held the job."""
    spans: dict[int, tuple[float, float]] = {}
    for event in events:
        if event["type"] not in _MOVES:
            continue
        data = parsed(event["data"])
        if data["status"] == "running":
            spans[data["attempt"]] = (event["created_at"], float("inf"))
        elif data["attempt"] in spans and spans[data["attempt"]][1] == float("inf"):
            spans[data["attempt"]] = (spans[data["attempt"]][0], event["created_at"])
    return spans
