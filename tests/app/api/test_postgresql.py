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


def test_a_file_of_three_gigabytes_is_declared_arrives_in_parts_and_is_found(client: TestClient, thaw: "Thaw") -> None:
    declared = thaw.post("/v1/uploads", {"bytes": 3 * 1024**3, "filename": "large"})
    assert client.get(f"/v1/uploads/{declared['id']}").json()["bytes"] == 3 * 1024**3
    upload = thaw.post("/v1/uploads", {"bytes": 6, "filename": "small 🧊"})["id"]
    ids = [
        client.post(f"/v1/uploads/{upload}/parts", files={"data": ("a", piece)}, data={"number": number}).json()["id"]
        for number, piece in (("2", b"two"), ("1", b"one"))
    ]
    listed = client.get(f"/v1/uploads/{upload}/parts?order=asc&limit=1").json()
    assert ([part["id"] for part in listed["data"]], listed["has_more"]) == (ids[1:], True)
    done = client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": ids[::-1]}).json()
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == b"onetwo"
    assert [one["id"] for one in client.get("/v1/uploads?status=completed").json()["data"]] == [upload]


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
