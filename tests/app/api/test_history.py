"""What a job has lived through and made."""

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


@pytest.fixture
def job(thaw: "Thaw") -> str:
    """A job that trained three epochs, kept a checkpoint and succeeded."""
    identifier = thaw.job()
    claim = thaw.claim(identifier)
    thaw.run_epochs(claim, 3, checkpoint=b"weights")
    thaw.succeed(claim)
    return f"/v1/fine_tuning/jobs/{identifier}"


def walk(client: TestClient, url: str, *, limit: int, order: str = "asc") -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    items: list[dict[str, Any]] = []
    params: dict[str, str | int] = {"limit": limit, "order": order}
    while True:
        page = client.get(url, params=params).json()
        assert len(page["data"]) <= limit
        items += page["data"]
        if not page["has_more"]:
            return items
        params["after"] = page["last_id"]


def test_events_are_numbered_from_one_and_end_with_completed(client: TestClient, job: str) -> None:
    events = walk(client, f"{job}/events", limit=100)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert {event["object"] for event in events} == {"fine_tuning.job.event"}
    assert events[-1]["type"] == "completed"
    assert events[-1]["data"]["status"] == "succeeded"
    assert {"stage", "metrics", "status"} <= {event["type"] for event in events}


@pytest.mark.parametrize("what", ["events", "metrics", "checkpoints"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_walking_page_by_page_gives_each_item_once(client: TestClient, job: str, what: str, order: str) -> None:
    one_by_one = walk(client, f"{job}/{what}", limit=1, order=order)
    assert one_by_one == walk(client, f"{job}/{what}", limit=100, order=order)
    assert one_by_one == walk(client, f"{job}/{what}", limit=2, order="asc")[:: 1 if order == "asc" else -1]


def test_metrics_have_a_row_for_each_epoch(client: TestClient, job: str) -> None:
    listed = client.get(f"{job}/metrics?order=asc").json()
    assert [(row["number"], row["step"]) for row in listed["data"]] == [(1, 10), (2, 20), (3, 30)]
    assert listed["data"][1]["metrics"] == {"loss": 0.5, "val_loss": 1.0}
    assert listed["data"][1]["object"] == "fine_tuning.job.metrics"
    assert (listed["first_id"], listed["last_id"]) == ("1", "3")


def test_a_checkpoint_has_openais_names_beside_ours(client: TestClient, job: str) -> None:
    (checkpoint,) = client.get(f"{job}/checkpoints").json()["data"]
    assert checkpoint["object"] == "fine_tuning.job.checkpoint"
    assert checkpoint["fine_tuning_job_id"] == job.rpartition("/")[2]
    assert checkpoint["fine_tuned_model_checkpoint"] == checkpoint["id"]
    assert checkpoint["step_number"] == 30
    assert checkpoint["metrics"]["train_loss"] == checkpoint["metrics"]["loss"]
    assert checkpoint["metrics"]["valid_loss"] == checkpoint["metrics"]["val_loss"]
    assert checkpoint["artifact"]["bytes"] == len(b"weights")


def test_the_report_is_what_the_job_found_out(client: TestClient, job: str) -> None:
    report = client.get(f"{job}/report").json()
    assert report["test"]["accuracy"] == {"value": 0.95, "low": 0.76, "high": 0.99, "method": "wilson"}
    assert report == client.get(job).json()["report"]


def test_a_job_without_a_report_is_409(client: TestClient, thaw: "Thaw") -> None:
    response = client.get(f"/v1/fine_tuning/jobs/{thaw.job()}/report")
    assert response.status_code == 409
    assert "'queued'" in response.json()["detail"]


def test_artifacts_are_listed_with_where_to_get_them(client: TestClient, job: str) -> None:
    listed = client.get(f"{job}/artifacts").json()
    assert [artifact["name"] for artifact in listed["data"]] == ["model.keras", "labels.json"]
    assert listed["data"][0]["object"] == "artifact"
    for artifact in listed["data"]:
        response = client.get(artifact["url"])
        assert len(response.content) == artifact["bytes"]
        assert response.headers["ETag"] == f'"{artifact["sha256"]}"'
    assert client.head(listed["data"][0]["url"]).status_code == 200


def test_an_artifact_that_there_is_not_is_404_and_names_those_that_are(client: TestClient, job: str) -> None:
    response = client.get(f"{job}/artifacts/model.onnx")
    assert response.status_code == 404
    assert "model.keras" in response.json()["detail"]


@pytest.mark.parametrize("what", ["events", "metrics", "checkpoints"])
def test_an_unknown_after_is_422(client: TestClient, job: str, what: str) -> None:
    response = client.get(f"{job}/{what}?after=nothing-0")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/after"
