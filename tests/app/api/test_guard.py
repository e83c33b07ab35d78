"""Who may ask."""

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from app.api.guard import is_loopback, is_protected
from app.main import create_app
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

OPEN = {"/healthz", "/readyz"}


def operations(schema: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]


def test_every_route_in_the_document_needs_a_key_except_health(stranger: TestClient) -> None:
    walked = operations(stranger.get("/openapi.json").json())
    assert len(walked) > 25
    for method, path in walked:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dGhhdw=="}, {"api-key": "k"}):
            response = stranger.request(method, path.replace("{", "").replace("}", ""), headers=headers)
            if path in OPEN:
                assert response.status_code in {200, 503}, path
            else:
                assert response.status_code == 401, (method, path)
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert response.json()["code"] == "invalid_api_key"


def test_the_document_says_which_operations_need_a_key(stranger: TestClient) -> None:
    schema = stranger.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (path not in OPEN), path


def test_head_and_what_is_not_in_the_document_need_a_key_too(stranger: TestClient) -> None:
    assert stranger.head("/v1/files/file-0/content").status_code == 401
    assert stranger.get("/v1/nothing").status_code == 401
    assert stranger.get("/v1").status_code == 401
    assert stranger.put("/v1/files").status_code == 401


def test_nothing_of_a_strangers_body_is_read(stranger: TestClient) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = stranger.post("/v1/fine_tuning/jobs", content=b"{ this is no JSON", headers=headers)
        assert response.status_code == 401
        large = {**headers, "Content-Length": str(10**12), "Content-Type": "multipart/form-data; boundary=b"}
        assert stranger.post("/v1/files", content=b"", headers=large).status_code == 401


def test_docs_and_health_are_open(stranger: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert stranger.get(path).status_code == 200, path


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(stranger: TestClient, scheme: str) -> None:
    response = stranger.get("/v1/files", headers={"Authorization": f"{scheme} thaw_test-key"})
    assert response.status_code == 200


def test_a_key_in_the_url_is_no_key(stranger: TestClient) -> None:
    assert stranger.get("/v1/files?api_key=thaw_test-key").status_code == 401


@pytest.mark.parametrize("host", ["localhost", "localhost:8420", "127.0.0.1:1", "127.9.9.9", "[::1]:8420", "LOCALHOST"])
def test_on_loopback_its_own_names_are_answered(thaw: "Thaw", host: str) -> None:
    assert thaw.client.get("/v1/files", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.0.7", "", "["]
)
def test_on_loopback_a_foreign_host_is_refused(thaw: "Thaw", host: str) -> None:
    for path in ("/v1/files", "/healthz", "/docs"):
        response = thaw.client.get(path, headers={"Host": host})
        assert response.status_code == 400
        assert response.json()["code"] == "untrusted_host"


def test_a_service_for_other_machines_answers_to_any_name(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104 (nothing listens)
    with TestClient(app, base_url="http://thaw.example") as client:
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v1", True), ("/v1/files", True), ("/v1/", True), ("/v10", False), ("/healthz", False), ("/", False)],
)
def test_everything_under_v1_is_protected(path: str, expected: bool) -> None:
    assert is_protected(path) is expected


def test_loopback_is_told_from_the_rest() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.0.1", "::", "", "thaw.example"))  # noqa: S104
