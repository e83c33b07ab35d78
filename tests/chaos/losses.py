"""Whether a job was given up rightly: three attempts were lost in a row, and nothing new was kept in between.

    lost    …    lost    …    lost, and failed
         '----------------------' every attempt in here that goes on does so from the same step

Judged by events alone: what could be gone on from is deleted when a job has ended. An attempt that goes on tells from
which step (`resumed`, before its stage `training`); one that trains and has told none began at 0. Of one that ended
before it told anything, nothing is known. What the first of the three kept, it kept before it was lost.

Where a checkpoint was refused, an attempt goes on from an older one and keeps again what had been kept before, which
counts for nothing: of such a job only the number of its losses is judged.
"""

from collections.abc import Iterator, Mapping, Sequence

from app.domain.states import MAX_ATTEMPTS
from tests.chaos.evidence import Row, parsed

_SAID_OF_A_LOSS = "was lost;"
"""Of an attempt that waits again, only the message says whether it was lost or given back at no cost."""


def objections(events: Sequence[Row]) -> Iterator[str]:
    """What speaks against having given up a job, by all of its events in their order."""
    lost = _lost(events)
    if len(lost) < MAX_ATTEMPTS:
        yield f"it was given up after the loss of {len(lost)} attempts ({lost}) instead of {MAX_ATTEMPTS}"
        return
    if any(event["type"] == "checkpoint_refused" for event in events):
        return
    began = {attempt: step for attempt, step in _began(events).items() if attempt > lost[-MAX_ATTEMPTS]}
    if began and max(began.values()) > next(iter(began.values())):
        yield f"it was given up, and attempts kept something new in between: they began at the steps {began}"


def _lost(events: Sequence[Row]) -> list[int]:
    """The attempts that were lost, the last one included; one that paused may have been, unless a disk was full."""
    set_aside = {parsed(event["data"])["attempt"] for event in events if event["type"] == "storage_full"}
    lost = []
    for event in events:
        data = parsed(event["data"])
        if event["type"] == "completed" or (event["type"] == "status" and _maybe_lost(event, data, set_aside)):
            lost.append(data["attempt"])
    return sorted(set(lost))


def _maybe_lost(event: Row, data: Mapping[str, object], set_aside: set[int]) -> bool:
    if data["status"] == "paused":
        return data["attempt"] not in {0, *set_aside}
    return data["status"] == "queued" and _SAID_OF_A_LOSS in event["message"]


def _began(events: Sequence[Row]) -> dict[int, int]:
    """The step at which each attempt began of which that is known."""
    began: dict[int, int] = {}
    for event in events:
        data = parsed(event["data"])
        if event["type"] == "resumed":
            began[data["attempt"]] = data["step"]
        elif event["type"] == "stage" and data["stage"] == "training":
            began.setdefault(data["attempt"], 0)
    return began
