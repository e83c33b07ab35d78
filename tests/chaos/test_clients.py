"""What clients remember of the answers that they got."""

import random
from pathlib import Path

import httpx2
import pytest

from tests.chaos.clients import Accepted, Client, Errand, History


@pytest.mark.parametrize(
    ("what", "code", "status", "kept"),
    [
        ("cancel", 200, "cancelled", "cancelled"),
        ("cancel", 200, "running", "running"),
        ("cancel", 409, "succeeded", None),
        ("pause", 200, "paused", None),
    ],
)
def test_the_answer_to_a_cancel_is_kept(what: str, code: int, status: str, kept: str | None, tmp_path: Path) -> None:
    client = Client(["http://thaw"], "key", History(tmp_path / "history.jsonl"), random.Random(0))  # noqa: S311 (no secret)
    client.close()
    answers = httpx2.MockTransport(lambda _: httpx2.Response(code, json={"status": status}))
    client._http = httpx2.Client(transport=answers)
    job = Accepted("ftjob-1", "key", Errand(number=0, kind="dropout", wish="cancel", after_seconds=0, rest_seconds=0))
    assert client.do(job, what) == code
    assert job.cancel_answer == kept
    client.close()
