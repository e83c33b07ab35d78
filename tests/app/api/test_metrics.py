"""`GET /metrics`: what Prometheus reads."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from app.api import exposition
from app.domain.errors import Failure
from app.domain.worker import WorkerCapabilities
from app.main import create_app
from app.services import reports, workers
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def scraped(client: TestClient) -> dict[str, float]:
    """Every sample, by its name with its labels in order: `thaw_jobs status=queued`."""
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_an_empty_service_has_its_families_at_zero(client: TestClient) -> None:
    found = scraped(client)
    assert found["thaw_jobs status=queued"] == 0
    assert found["thaw_queue_depth queue=prepare"] == 0
    assert found["thaw_workers queue=cpu"] == 0
    assert found["thaw_jobs_finished_total outcome=succeeded"] == 0
    assert found["thaw_oldest_queued_job_seconds"] == 0


def test_jobs_queues_workers_and_leases_are_counted(client: TestClient, thaw: "Thaw") -> None:
    failed, running = thaw.claim(thaw.job()), thaw.claim(thaw.job())
    reason = Failure(error_class="user", code="bad_data", message="It is bad.")
    reports.fail_job(thaw.services, failed, reason)
    thaw.run_epochs(running, 1)
    thaw.job(priority="high")
    workers.announce(
        thaw.services, worker="w1", capabilities=WorkerCapabilities(queues=["gpu", "prepare"], devices=["H200"])
    )
    found = scraped(client)
    assert found["thaw_jobs status=running"] == found["thaw_jobs status=queued"] == 1
    assert found["thaw_jobs_finished_total outcome=failed"] == 1
    assert found["thaw_recent_jobs code=bad_data error_class=user status=failed"] == 1
    assert found["thaw_recent_attempts status=failed"] == 1
    assert (found["thaw_queue_depth queue=gpu"], found["thaw_queue_depth queue=cpu"]) == (1, 0)
    assert (found["thaw_workers queue=gpu"], found["thaw_workers queue=cpu"]) == (1, 0)
    assert [found[f"thaw_queued_jobs priority={name}"] for name in ("high", "normal", "low")] == [1, 0, 0]
    assert found["thaw_leases kind=job"] == 1
    assert found["thaw_leases_overdue kind=job"] == 0
    assert found["thaw_oldest_queued_job_seconds"] > 0


def test_a_worker_without_room_serves_its_queues_and_is_fit_for_files_alone(client: TestClient, thaw: "Thaw") -> None:
    full = WorkerCapabilities(queues=["cpu", "prepare"], devices=["cpu"], refuses_training="its disk is full")
    workers.announce(thaw.services, worker="w1", capabilities=full)
    found = scraped(client)
    assert [found[f"thaw_workers queue={name}"] for name in ("cpu", "prepare")] == [1, 1]
    assert [found[f"thaw_workers_fit queue={name}"] for name in ("cpu", "gpu", "prepare")] == [0, 0, 1]
    assert found["thaw_workers_unfit"] == 1
    workers.announce(thaw.services, worker="w2", capabilities=full.model_copy(update={"refuses_training": None}))
    assert scraped(client)["thaw_workers_fit queue=cpu"] == 1


def test_stages_and_cached_phases_are_told(client: TestClient, thaw: "Thaw") -> None:
    claim = thaw.claim(thaw.job())
    thaw.run_epochs(claim, 1)
    thaw.succeed(claim)
    found = scraped(client)
    assert found["thaw_recent_stage_seconds_count stage=training"] == 1
    assert 0 <= found["thaw_recent_stage_seconds_sum stage=training"] < 60
    assert found["thaw_recent_cached_phases cache=unused"] == 0, (
        "a phase that nobody asked about caching counts nowhere"
    )


def test_requests_are_counted_by_the_template_of_their_route(client: TestClient) -> None:
    for name in ("file-a", "file-b"):
        assert client.get(f"/v1/files/{name}").status_code == 404
    client.get("/v1/files/file-a", headers={"Authorization": "Bearer wrong"})
    client.request("BREW", "/v1/files")
    found = scraped(client)
    count = "thaw_http_request_seconds_count"
    assert found[f"{count} method=GET route=/v1/files/{{file_id}} status=404"] == 2
    assert found[f"{count} method=GET route=- status=401"] == 1
    assert {key for key in found if key.startswith(count) and "method=other" in key}, "unknown methods are one"
    assert not [key for key in found if "BREW" in key or "file-a" in key]


def test_two_applications_share_no_numbers(client: TestClient, settings: Settings) -> None:
    client.get("/v1/files/file-a")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as other:
        other.headers["Authorization"] = client.headers["Authorization"]
        assert not [key for key in scraped(other) if "file_id" in key]


def test_a_setting_opens_it_and_nothing_else(settings: Settings) -> None:
    public = settings.model_copy(update={"metrics_public": True})
    with TestClient(create_app(public), base_url="http://127.0.0.1") as stranger:
        assert scraped(stranger)["thaw_jobs status=queued"] == 0
        assert stranger.get("/v1/files").status_code == 401
        assert stranger.get("/v1/capabilities").status_code == 401


def test_without_a_database_the_answer_is_an_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise OperationalError("SELECT", {}, Exception())  # noqa: EM101 (the driver's own)

    monkeypatch.setattr("app.services.tallies.take", away)
    assert client.get("/metrics").status_code == 503


def test_slow_answers_are_in_their_bucket() -> None:
    times = exposition.request_times()
    exposition.note_request(times, method="GET", route="/x", status=200, seconds=0.03)
    (family,) = times.collect()
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.025"], buckets["0.05"], buckets["+Inf"]) == (0, 1, 1)


def test_what_is_said_of_a_family_is_what_it_counts(client: TestClient) -> None:
    said = {family.name: family.documentation for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert "since the job came into the queue, last" in said["thaw_oldest_queued_job_seconds"]
    assert "their self-test failed, or their disk is full" in said["thaw_workers_unfit"]


def test_the_page_names_every_family(client: TestClient) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    families = text_string_to_metric_families(client.get("/metrics").text)
    names = {family.name for family in families} - {"thaw_info"}
    assert names == set(re.findall(r"`(thaw_[a-z_]+?)(?:_total)?(?:\{[a-z_,]+\})?`", page))
