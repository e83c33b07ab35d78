"""What the service says about itself."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from app.domain.worker import WorkerCapabilities
from app.services import workers

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def test_capabilities_name_what_a_spec_may_use(client: TestClient) -> None:
    found = client.get("/v1/capabilities").json()
    assert (found["object"], found["version"]) == ("capabilities", version("thaw"))
    assert found["kinds"] == ["images", "arrays"]
    assert found["tasks"] == ["binary", "single_label", "regression"]
    assert found["optimizers"] == ["sgd", "adam", "adamw", "rmsprop", "nadam", "adagrad"]
    assert {"dense", "dropout", "global_average_pooling", "global_max_pooling"} <= set(found["head_layers"])
    assert found["limits"]["max_upload_bytes"] == 10**6
    assert found["workers"] == []


def test_capabilities_name_the_workers_that_are_there(client: TestClient, thaw: "Thaw") -> None:
    capabilities = WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"], keras="3.15.1", tensorflow="2.21.0")
    workers.announce(thaw.services, worker="worker-7", capabilities=capabilities)
    assert client.get("/v1/capabilities").json()["workers"] == [
        {
            "id": "worker-7",
            "queues": ["gpu"],
            "devices": ["NVIDIA H200"],
            "keras": "3.15.1",
            "tensorflow": "2.21.0",
            "live": True,
        }
    ]


def test_the_process_answers(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_ready_service_says_so_of_each_part(client: TestClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert {part["name"] for part in response.json()["parts"]} >= {"database", "store", "broker"}


def test_a_part_that_does_not_answer_makes_the_service_unready(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thaw.doorbell, "reachable", lambda: False)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert [part["name"] for part in response.json()["parts"] if not part["ok"]] == ["broker"]


def test_without_a_broker_jobs_are_accepted_all_the_same(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thaw.doorbell, "ring", lambda *_, **__: False)
    job = thaw.job()
    assert client.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] == "queued"
