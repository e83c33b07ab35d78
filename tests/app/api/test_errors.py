"""Every error has the one shape, whatever it is."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.api.errors import TABLE, answer_for
from app.api.problems import Problem
from app.domain import errors
from app.domain.errors import ThawError
from app.services import files, keys

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JSON = {"Content-Type": "application/json"}
JOBS = "/v1/fine_tuning/jobs"


def problem_of(response: Any) -> dict[str, Any]:
    """The body, once it is shown to be a whole problem."""
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    Problem.model_validate(problem, extra="forbid")
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert problem["error"]["message"] == problem["detail"]
    assert problem["error"]["code"] == problem["code"]
    assert problem["type"] == f"urn:thaw:problem:{problem['code']}"
    return problem


@pytest.mark.parametrize(
    ("request_line", "body", "status", "code"),
    [
        ("GET /v1/nothing", None, 404, "route_not_found"),
        ("GET /nothing", None, 404, "route_not_found"),
        ("GET /v1/files/", None, 404, "route_not_found"),
        ("GET /docs/assets/nothing.js", None, 404, "route_not_found"),
        ("PUT /v1/files", None, 405, "method_not_allowed"),
        ("GET /v1/files/file-0", None, 404, "not_found"),
        (f"POST {JOBS}", b"{", 400, "invalid_json"),
        (f"POST {JOBS}", b"\xff\xfe\xfa", 400, "invalid_body"),
        (f"POST {JOBS}", b"[" * 100_000, 400, "invalid_body"),
        (f"POST {JOBS}", b'{"seed": ' + b"9" * 5000 + b"}", 400, "invalid_body"),
        (f"POST {JOBS}", b"", 422, "invalid_request"),
        (f"POST {JOBS}", b"null", 422, "invalid_request"),
        (f"POST {JOBS}", b"[]", 422, "invalid_request"),
        (f"POST {JOBS}", b'{"model": NaN}', 422, "invalid_request"),
        (f"POST {JOBS}", rb'{"model": "\ud800", "\udfff": 1}', 422, "invalid_request"),
        (f"POST {JOBS}", b'{"batch_size": 1e999}', 422, "invalid_request"),
        (f"POST {JOBS}", b'"' + b"x" * 1_048_577 + b'"', 413, "too_large"),
    ],
)
def test_an_error_is_a_problem_with_its_code(
    client: TestClient, request_line: str, body: bytes | None, status: int, code: str
) -> None:
    response = client.request(*request_line.split(), content=body, headers=JSON)
    assert response.status_code == status
    assert problem_of(response)["code"] == code


def test_a_body_over_the_limit_without_a_length_is_413(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    response = client.post(JOBS, content=chunks(), headers=JSON)
    assert response.status_code == 413
    assert problem_of(response)["code"] == "too_large"


def test_the_body_limit_is_the_setting(client: TestClient) -> None:
    problem = problem_of(client.post(JOBS, content=b" " * 1_048_577, headers=JSON))
    assert "1048576 bytes" in problem["detail"]


def test_405_names_every_method_that_the_path_has(client: TestClient) -> None:
    assert client.put("/v1/files").headers["Allow"] == "GET, POST"
    assert client.patch("/v1/files/file-0").headers["Allow"] == "GET, DELETE"
    assert client.delete("/v1/files/file-0/content").headers["Allow"] == "GET, HEAD"
    assert client.post("/healthz").headers["Allow"] == "GET"


def test_a_body_that_is_not_json_is_told_what_was_expected(client: TestClient) -> None:
    response = client.post(JOBS, content=b"model=a", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.status_code == 422
    assert "Content-Type: application/json" in problem_of(response)["detail"]


def test_an_error_that_nobody_expected_is_500_and_tells_nothing_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        message = "the secret is swordfish"
        raise RuntimeError(message)

    monkeypatch.setattr(files, "list_page", explode)
    response = client.get("/v1/files", headers={"X-Request-Id": "mine-1"})
    assert response.status_code == 500
    assert problem_of(response)["request_id"] == "mine-1"
    assert "swordfish" not in response.text
    assert "Traceback" not in response.text


def test_a_database_that_is_away_is_503_and_worth_trying_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        statement, parameters, cause = "SELECT secret", {}, ConnectionError("refused")
        raise OperationalError(statement, parameters, cause)

    monkeypatch.setattr(files, "list_page", away)
    response = client.get("/v1/files")
    assert response.status_code == 503
    assert problem_of(response)["code"] == "service_unavailable"
    assert int(response.headers["Retry-After"]) > 0
    assert "SELECT" not in response.text


def test_a_database_that_is_away_when_the_key_is_looked_up_is_503_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        statement, parameters, cause = "SELECT secret", {}, ConnectionError("refused")
        raise OperationalError(statement, parameters, cause)

    monkeypatch.setattr(keys, "authenticate", away)
    response = client.get("/v1/files")
    assert response.status_code == 503
    assert problem_of(response)["code"] == "service_unavailable"


def test_content_that_is_gone_from_the_store_is_500_not_an_empty_file(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload(b"content")
    for path in thaw.services.settings.artifacts_dir().rglob("*"):
        if path.is_file():
            path.unlink()
    assert client.get(f"/v1/files/{file}/content").status_code == 500


@pytest.mark.parametrize("given", ["mine-1", "a" * 128, "A.b_c-9"])
def test_a_sane_request_id_is_kept(client: TestClient, given: str) -> None:
    assert client.get("/v1/files", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", '"', "<script>"])
def test_a_strange_request_id_is_replaced(client: TestClient, given: str) -> None:
    received = client.get("/v1/files", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert received.startswith("req-")


def test_every_answer_forbids_guessing_its_type(client: TestClient) -> None:
    for path in ("/v1/files", "/v1/files/file-0", "/nothing", "/healthz", "/docs", "/openapi.json"):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff", path


def test_at_most_a_hundred_wrong_fields_are_listed(client: TestClient) -> None:
    body = {f"field_{number}": 1 for number in range(500)}
    problem = problem_of(client.post(JOBS, json=body))
    assert len(problem["errors"]) == 100
    assert "502 fields" in problem["detail"]


def test_a_long_wrong_value_is_not_repeated_in_full(client: TestClient) -> None:
    response = client.post(JOBS, json={"batch_size": "x" * 10_000})
    assert len(response.content) < 5000


def all_errors(base: type[ThawError] = ThawError) -> Iterator[type[ThawError]]:
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def test_each_error_that_a_request_can_meet_has_a_status_of_its_own_choice() -> None:
    """Errors without a row are answered as 500; these are the ones for which that is right."""
    platform = {errors.LeaseLostError, errors.WorkError, errors.PlatformError, errors.ProofError, errors.CapacityError}
    for error in all_errors():
        if error in platform | {ThawError} or error.__module__ != errors.__name__:
            continue
        assert any(base in TABLE for base in error.__mro__ if base is not ThawError), error


def test_the_row_of_the_nearest_base_counts() -> None:
    assert answer_for(errors.InUseError("x")).status == 409
    assert answer_for(errors.CutError("x")).status == 422
    assert answer_for(errors.PlatformError("x")).status == 500
    assert answer_for(errors.InUseError("x")).headers == {"X-Should-Retry": "false"}
    assert answer_for(errors.IdempotencyInFlightError("x")).headers is None


def test_a_problem_leaves_out_what_does_not_apply(client: TestClient) -> None:
    problem = json.loads(client.get("/v1/files/file-0").content)
    assert "current_status" not in problem
    assert "allowed_actions" not in problem
