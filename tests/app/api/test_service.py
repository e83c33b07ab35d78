"""What the service says about itself."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest
from fastapi.testclient import TestClient

from app.domain.worker import Fact, SelfTest, WorkerCapabilities
from app.services import workers

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def test_capabilities_name_what_a_spec_may_use(client: TestClient) -> None:
    found = client.get("/v1/capabilities").json()
    assert (found["object"], found["version"]) == ("capabilities", version("thaw"))
    assert found["kinds"] == ["images", "arrays", "table", "text"]
    assert found["tasks"] == ["binary", "single_label", "multi_label", "regression"]
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
            "self_test": None,
            "refuses_training": None,
            "resume_fidelity": None,
            "draining": False,
        }
    ]


def test_capabilities_tell_what_each_worker_found_out_about_itself(client: TestClient, thaw: "Thaw") -> None:
    fact = Fact(name="frozen_weights_stay_still", kind="freezing", holds=False, measured="1 of 2 arrays bit-identical")
    tested = SelfTest(ran_at=1.0, seconds=3.5, device="cpu", versions={"keras": "4.0"}, facts=[fact])
    refusing = WorkerCapabilities(
        queues=["prepare"],
        devices=["cpu"],
        self_test=tested,
        refuses_training=tested.refusal(),
        resume_fidelity=tested.resume_fidelity,
    )
    workers.announce(thaw.services, worker="worker-7", capabilities=refusing)
    (worker,) = client.get("/v1/capabilities").json()["workers"]
    assert worker["resume_fidelity"] == "exact"
    assert worker["self_test"]["facts"] == [fact.model_dump()]
    assert worker["refuses_training"] == (
        "its self-test failed: frozen_weights_stay_still (1 of 2 arrays bit-identical)"
    )


def test_the_process_answers(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_the_process_answers_also_while_all_its_threads_wait_for_something(client: TestClient) -> None:
    """As they do for a store that says nothing."""
    borrowers: list[object] = []

    async def take_all() -> None:
        threads = anyio.to_thread.current_default_thread_limiter()
        while threads.available_tokens:
            borrowers.append(object())
            threads.acquire_on_behalf_of_nowait(borrowers[-1])

    async def give_back() -> None:
        for each in borrowers:
            anyio.to_thread.current_default_thread_limiter().release_on_behalf_of(each)

    assert client.portal is not None
    client.portal.call(take_all)
    with ThreadPoolExecutor(1) as aside:
        try:
            assert aside.submit(client.get, "/healthz").result(timeout=20).status_code == 200
        finally:
            client.portal.call(give_back)


def test_a_ready_service_says_so_of_each_part(client: TestClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert {part["name"] for part in response.json()["parts"]} >= {"database", "store", "broker"}


def test_a_part_that_requests_need_makes_the_service_unready(client: TestClient, thaw: "Thaw") -> None:
    shutil.rmtree(thaw.services.settings.artifacts_dir())
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert [part["name"] for part in response.json()["parts"] if not part["ok"]] == ["store"]


def test_a_broker_that_is_away_is_told_of_by_a_service_that_is_ready(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thaw.doorbell, "reachable", lambda: False)
    response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    (part,) = [part for part in response.json()["parts"] if not part["ok"]]
    assert (part["name"], part["needed"]) == ("broker", False)
    assert "jobs are accepted" in part["detail"]


def test_without_a_broker_jobs_are_accepted_all_the_same(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thaw.doorbell, "ring", lambda *_, **__: False)
    job = thaw.job()
    assert client.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] == "queued"
