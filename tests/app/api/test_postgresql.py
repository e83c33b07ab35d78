"""The same API on PostgreSQL."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

pytestmark = pytest.mark.service

JOBS = "/v1/fine_tuning/jobs"
_numbers = itertools.count()


@pytest.fixture
def settings(tmp_path: Path, postgres: Any) -> Settings:
    """An empty database: the API migrates it when it starts."""
    url = postgres.create_database(f"api_{next(_numbers)}")
    return Settings(
        data_dir=tmp_path / "data",
        database_url=url,
        api_key="thaw_test-key",
        event_poll_seconds=0.05,
        min_free_disk_bytes=0,
    )


def test_a_job_lives_its_whole_life(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job(metadata={"team": "shoes"})
    claim = thaw.claim(job)
    thaw.run_epochs(claim, 3, checkpoint=b"weights")
    thaw.succeed(claim, model=b"trained")
    assert client.get(f"{JOBS}/{job}").json()["status"] == "succeeded"
    assert [row["id"] for row in client.get(f"{JOBS}?metadata[team]=shoes&status=succeeded").json()["data"]] == [job]
    assert len(client.get(f"{JOBS}/{job}/metrics").json()["data"]) == 3
    assert client.get(f"{JOBS}/{job}/artifacts/model.keras").content == b"trained"
    stream = client.get(f"{JOBS}/{job}/events", headers={"Accept": "text/event-stream"}).text
    assert stream.count("event: ") == len(client.get(f"{JOBS}/{job}/events").json()["data"])
    assert "event: completed" in stream


def test_the_same_key_makes_one_job(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    answers = [client.post(JOBS, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert len(client.get(JOBS).json()["data"]) == 1


@pytest.mark.parametrize("text", ["\u0000", "\ud800", "\U0001f9ca", "' OR 1=1 --", "%", "\\"])
def test_strange_text_is_kept_or_refused_but_never_an_error_of_ours(
    client: TestClient, thaw: "Thaw", text: str
) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset(), "metadata": {"a": text}}
    response = client.post(JOBS, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code in {201, 422}
    assert client.get(JOBS, params={"metadata[a]": text.encode("utf-8", "surrogatepass")}).status_code in {200, 422}
    if response.status_code == 201:
        assert response.json()["metadata"] == {"a": text}
        assert len(client.get(JOBS, params={"metadata[a]": text}).json()["data"]) == 1
