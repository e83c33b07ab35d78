"""Errors become ours, and what may pass is tried again."""

import time

import httpx2
import pytest

from tests.thaw.conftest import FakeService, problem
from thaw import Client
from thaw.connection import Connection
from thaw.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    ThawClientError,
    TooLargeError,
    UnexpectedAnswerError,
)
from thaw.location import Location

REFUSED = httpx2.ConnectError("[Errno 111] Connection refused")
CUT = httpx2.ReadError("Connection reset by peer")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(
    service: FakeService, connection: Connection, pauses: list[float], status: int
) -> None:
    service.answers = [problem(status, "busy", "Later."), problem(status, "busy", "Later."), None]
    assert connection.get("/v1/capabilities")["version"] == "0.1.0"
    assert len(service.requests) == 3
    assert 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5


def test_a_broken_connection_is_tried_again(service: FakeService, connection: Connection) -> None:
    service.answers = [CUT, httpx2.ReadTimeout("timed out"), None]
    assert connection.get("/v1/capabilities")["version"] == "0.1.0"


def test_retry_after_is_obeyed(service: FakeService, connection: Connection, pauses: list[float]) -> None:
    slow = problem(429, "rate_limited", "Slow down.")
    slow.headers["retry-after"] = "7"
    dated = problem(503, "busy", "Later.")
    dated.headers["retry-after"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    service.answers = [slow, dated, None]
    connection.get("/v1/capabilities")
    assert pauses[0] == 7
    assert 15 < pauses[1] <= 20


def test_a_service_that_does_not_run_is_reported_after_three_tries(
    service: FakeService, connection: Connection, pauses: list[float]
) -> None:
    service.answers = [REFUSED] * 9
    with pytest.raises(ConnectionFailedError, match=r"does not answer at http://thaw.test.*thaw up"):
        connection.get("/v1/capabilities")
    assert len(service.requests) == 3
    assert sum(pauses) < 1


def test_tries_end(service: FakeService, connection: Connection) -> None:
    service.answers = [problem(503, "busy", "Later.")] * 9
    with pytest.raises(ServerError):
        connection.get("/v1/capabilities")
    assert len(service.requests) == 5


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, TooLargeError),
        (418, ApiError),
        (422, InvalidRequestError),
        (429, RateLimitedError),
        (500, ServerError),
    ],
)
def test_each_status_has_its_error(
    service: FakeService, connection: Connection, status: int, expected: type[ApiError]
) -> None:
    service.answers = [problem(status, "some_code", "This is wrong.")] * 9
    with pytest.raises(expected) as caught:
        connection.get("/v1/capabilities")
    assert type(caught.value) is expected
    assert caught.value.code == "some_code"
    assert caught.value.request_id == "req-1"
    assert len(service.requests) == (5 if status == 429 else 1)


def test_a_message_shows_every_wrong_field_and_what_is_allowed(service: FakeService, connection: Connection) -> None:
    errors = [
        {"pointer": "/schedule/0/epochs", "code": "ge", "message": "Input should be at least 1", "allowed": None},
        {"pointer": "/head", "code": "literal", "message": "Unknown layer", "allowed": ["dense", "dropout"]},
    ]
    service.answers = [problem(422, "invalid_request", "2 fields are wrong.", errors=errors)]
    with pytest.raises(InvalidRequestError) as caught:
        connection.post("/v1/fine_tuning/jobs", body={})
    assert str(caught.value).splitlines() == [
        "2 fields are wrong.",
        "  /schedule/0/epochs: Input should be at least 1",
        "  /head: Unknown layer (allowed: dense, dropout)",
    ]
    assert caught.value.problems[1].allowed == ["dense", "dropout"]


def test_a_message_that_has_all_the_fields_already_does_not_say_them_twice(
    service: FakeService, connection: Connection
) -> None:
    errors = [
        {"pointer": "/seed", "code": "ge", "message": "At least 0"},
        {
            "pointer": "/cut",
            "code": "one_of",
            "message": "Give one of layer, fraction",
            "allowed": ["layer", "fraction"],
        },
    ]
    detail = "2 fields are wrong: /seed: At least 0; /cut: Give one of layer, fraction."
    service.answers = [problem(422, "invalid_request", detail, errors=errors)]
    with pytest.raises(InvalidRequestError) as caught:
        connection.get("/v1/x")
    expected = ["2 fields are wrong:", "  /seed: At least 0", "  /cut: Give one of layer, fraction"]
    assert str(caught.value).splitlines() == expected
    assert caught.value.message == detail


def test_an_error_that_only_openai_shapes_describe_is_understood(service: FakeService, connection: Connection) -> None:
    service.answers = [httpx2.Response(404, json={"error": {"message": "No such job.", "code": "gone", "param": "id"}})]
    with pytest.raises(NotFoundError, match="No such job") as caught:
        connection.get("/v1/x")
    assert (caught.value.code, caught.value.param) == ("gone", "id")


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b'{"errors": 3, "error": "x", "detail": 5}'])
def test_an_error_page_of_somebody_else_is_still_an_error_with_its_status(
    service: FakeService, connection: Connection, body: bytes
) -> None:
    service.answers = [httpx2.Response(404, content=body)]
    with pytest.raises(NotFoundError, match="404") as caught:
        connection.get("/v1/x")
    assert caught.value.status == 404


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b"\xff"])
def test_an_answer_that_is_no_json_object_is_not_taken_for_one(
    service: FakeService, connection: Connection, body: bytes
) -> None:
    service.answers = [httpx2.Response(200, content=body, headers={"content-type": "text/html"})]
    with pytest.raises(UnexpectedAnswerError, match="text/html"):
        connection.get("/v1/x")


def test_a_redirect_is_an_error_that_says_where_to(service: FakeService, connection: Connection) -> None:
    service.answers = [httpx2.Response(308, headers={"location": "https://thaw.test/v1/x"})]
    with pytest.raises(ApiError, match=r"https://thaw\.test/v1/x"):
        connection.get("/v1/x")


def test_a_create_keeps_its_idempotency_key_over_all_tries(service: FakeService, client: Client) -> None:
    service.answers = [CUT, problem(409, "idempotency_in_flight", "Wait."), None]
    job = client.jobs.create(model="model-1", training_file="ds-1")
    keys = {request.headers["idempotency-key"] for request in service.requests}
    assert len(service.requests) == 3
    assert len(keys) == 1
    assert list(service.jobs) == [job.id]


def test_a_create_outlives_the_minute_for_which_a_dead_process_keeps_its_key(
    service: FakeService, client: Client
) -> None:
    waits = (1, 1, 2, 4, 8, 16, 28, 1)
    service.answers = [
        CUT,
        *(_asked_to_wait(seconds) for seconds in waits),
        None,
    ]
    client.jobs.create(model="model-1", training_file="ds-1")
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1


def _asked_to_wait(seconds: int) -> httpx2.Response:
    answer = problem(409, "idempotency_in_flight", "Wait.")
    answer.headers["Retry-After"] = str(seconds)
    return answer


def test_two_creates_have_two_keys(service: FakeService, client: Client) -> None:
    for _ in range(2):
        client.jobs.create(model="model-1", training_file="ds-1")
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 2
    assert len(service.jobs) == 2


def test_another_conflict_is_not_tried_again(service: FakeService, connection: Connection) -> None:
    service.answers = [problem(409, "in_use", "A job needs it.", allowed_actions=["cancel"])]
    with pytest.raises(ConflictError) as caught:
        connection.delete("/v1/models/model-1")
    assert caught.value.allowed_actions == ("cancel",)
    assert len(service.requests) == 1


def test_the_key_and_the_client_are_named_in_each_request(service: FakeService, connection: Connection) -> None:
    connection.get("/v1/capabilities")
    assert service.requests[0].headers["authorization"] == "Bearer thaw_secret"
    assert service.requests[0].headers["user-agent"].startswith("thaw/0")


@pytest.mark.parametrize(
    ("url", "key"), [("http://[thaw", None), ("http://thaw", "schl\u00fcssel"), ("http://thaw", "a\nb")]
)
def test_a_url_or_key_that_http_cannot_carry_is_our_error(service: FakeService, url: str, key: str | None) -> None:
    with pytest.raises(ThawClientError):
        Connection(Location(url, key, "a test"), transport=service.transport).get("/v1/capabilities")


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    del pauses
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ConnectionFailedError):
        Connection(Location("http://127.0.0.1:1", None, "a test")).get("/v1/capabilities")
    local = Connection(Location("http://127.0.0.1:1", None, "a test"))
    remote = Connection(Location("http://elsewhere.example", None, "a test"))
    assert [bool(opened._http._mounts) for opened in (local, remote)] == [False, True]


def test_health_needs_no_key(service: FakeService) -> None:
    with Client("http://thaw.test", "wrong", transport=service.transport) as client:
        assert client.health().status == "ready"
        with pytest.raises(AuthenticationError):
            client.capabilities()


def test_a_service_that_is_not_ready_says_what_is_missing(service: FakeService, client: Client) -> None:
    parts = [{"name": "broker", "ok": False, "detail": "It does not answer."}]
    service.answers = [httpx2.Response(503, json={"status": "unavailable", "parts": parts})]
    health = client.health()
    assert health.status == "unavailable"
    assert [(part.name, part.ok) for part in health.parts] == [("broker", False)]
    assert len(service.requests) == 1


def test_capabilities_are_read(client: Client) -> None:
    found = client.capabilities()
    assert found.version == "0.1.0"
    assert [(worker.id, worker.live) for worker in found.workers] == [("worker-1", True)]
