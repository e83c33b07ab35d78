"""What the log says of an attempt whose write was refused."""

import json

import pytest

from tests.chaos.scenarios import refusals

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
