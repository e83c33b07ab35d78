"""What the log says of an attempt whose write was refused, and stories in which nothing happened."""

import json

import pytest

from tests.chaos.scenarios import WAITING, not_paused, nothing_to_forget, uninterrupted
from tests.chaos.writes import refusals

NO_LONGER = "Attempt 1 no longer holds 'ftjob-1'. It must stop and write nothing."


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"attempt": 1, "job_id": "ftjob-1", "reason": NO_LONGER}, [NO_LONGER]),
        ({"attempt": 2, "job_id": "ftjob-1", "reason": NO_LONGER.replace("1 no", "2 no")}, []),
        ({"attempt": 1, "job_id": "ftjob-2", "reason": NO_LONGER.replace("ftjob-1", "ftjob-2")}, []),
        ({"attempt": 1, "job_id": "ftjob-1", "reason": "not renewed in time"}, []),
    ],
    ids=["the first attempt's", "another attempt's", "another job's", "given up by itself"],
)
def test_only_what_the_database_refused_this_attempt_counts(facts: dict[str, object], expected: list[str]) -> None:
    lines = [
        "Not JSON: lease lost",
        json.dumps({**facts, "event": "lease lost"}),
        json.dumps({"event": "attempt ended"}),
    ]
    assert refusals("\n".join(lines), "ftjob-1", 1) == expected


def test_a_story_in_which_nothing_was_interrupted_has_failed() -> None:
    assert uninterrupted(1) == ["nothing interrupted the job: it ended in attempt 1"]
    assert uninterrupted(2) == []


def test_a_story_in_which_nothing_paused_has_failed() -> None:
    assert not_paused("paused", "paused", granted=True) == []
    assert not_paused("paused", "paused", granted=False) == ["its pause was not granted"]
    ended = "it was succeeded before and succeeded after the restart, instead of paused"
    assert not_paused("succeeded", "succeeded", granted=True) == [ended]
    assert not_paused("paused", "queued", granted=True) != []


def test_a_story_in_which_nothing_could_be_forgotten_has_failed() -> None:
    assert nothing_to_forget(waiting=WAITING, hints=1) == []
    assert nothing_to_forget(waiting=WAITING - 1, hints=1) == ["only 49 jobs waited instead of 50"]
    assert nothing_to_forget(waiting=WAITING, hints=0) == ["no hint was waiting that the broker could forget"]
