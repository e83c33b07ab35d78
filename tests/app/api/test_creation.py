"""`Idempotency-Key`."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import event, update

from app.api.creation import fingerprint
from app.services import idempotency, models
from app.storage.database import now
from app.storage.tables import IdempotencyRow

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JOBS = "/v1/fine_tuning/jobs"
KEY = {"Idempotency-Key": "once-1"}


def test_the_same_request_again_gets_the_first_answer_and_makes_nothing(client: TestClient, thaw: "Thaw") -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    first, again = (client.post(JOBS, json=body, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(client.get(JOBS).json()["data"]) == 1


def test_the_order_and_spelling_of_a_body_do_not_matter(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload()
    first = client.post("/v1/models", json={"file": file, "name": "a"}, headers=KEY)
    content = f'{{"n\\u0061me": "a",\n "file": "{file}"}}'
    again = client.post("/v1/models", content=content, headers={**KEY, "Content-Type": "application/json"})
    assert again.json()["id"] == first.json()["id"]


class Cut(BaseModel):
    """A body as one version knows it."""

    at: str
    kind: Literal["layer", "block"] = "layer"


class LaterCut(Cut):
    """And as the next version does."""

    offset: int = 0


class Body(BaseModel):
    """Another one, within a body."""

    name: str
    cut: Cut


class LaterBody(Body):
    """The same, in the next version."""

    cut: LaterCut
    priority: str = "normal"


def test_a_body_is_still_the_same_for_a_version_that_knows_more_fields() -> None:
    sent = {"name": "a", "cut": {"at": "block_5"}}
    before = fingerprint("POST /v1/x", Body.model_validate(sent))
    assert fingerprint("POST /v1/x", LaterBody.model_validate(sent)) == before
    sent["cut"] = {"at": "block_5", "kind": "block"}
    assert fingerprint("POST /v1/x", Body.model_validate(sent)) != before


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets"])
def test_another_body_with_the_same_key_is_422(client: TestClient, thaw: "Thaw", path: str) -> None:
    file = thaw.upload()
    assert client.post(path, json={"file": file}, headers=KEY).status_code == 201
    response = client.post(path, json={"file": file, "name": "other"}, headers=KEY)
    assert response.status_code == 422
    assert response.json()["code"] == "idempotency_mismatch"


def test_another_path_with_the_same_key_is_422(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload()
    client.post("/v1/models", json={"file": file}, headers=KEY)
    assert client.post("/v1/datasets", json={"file": file}, headers=KEY).status_code == 422


def test_an_upload_is_recognized_by_its_content_and_fields(client: TestClient) -> None:
    def upload(content: bytes, purpose: str = "fine-tune") -> Any:
        return client.post("/v1/files", files={"file": ("a", content)}, data={"purpose": purpose}, headers=KEY)

    first = upload(b"content")
    again = upload(b"content")
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert upload(b"other").status_code == 422
    assert upload(b"content", purpose="batch").status_code == 422
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_request_that_was_refused_leaves_the_key_free(client: TestClient, thaw: "Thaw") -> None:
    assert client.post("/v1/models", json={"file": "file-0"}, headers=KEY).status_code == 422
    response = client.post("/v1/models", json={"file": thaw.upload()}, headers=KEY)
    assert response.status_code == 201
    assert "Idempotency-Replayed" not in response.headers


def test_a_request_that_failed_in_thaw_leaves_the_key_free(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"file": thaw.upload()}
    with monkeypatch.context() as broken:
        broken.setattr(models, "register", lambda *_, **__: 1 / 0)
        assert client.post("/v1/models", json=body, headers=KEY).status_code == 500
    assert client.post("/v1/models", json=body, headers=KEY).status_code == 201


def test_the_same_request_while_the_first_is_being_answered_is_409(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    register = models.register

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert go_on.wait(10)
        return register(*arguments, **options)

    monkeypatch.setattr(models, "register", slow)
    body, answers = {"file": thaw.upload()}, []
    first = threading.Thread(target=lambda: answers.append(client.post("/v1/models", json=body, headers=KEY)))
    first.start()
    assert entered.wait(10)
    second = client.post("/v1/models", json=body, headers=KEY)
    go_on.set()
    first.join(10)
    assert second.status_code == 409
    assert second.json()["code"] == "idempotency_in_flight"
    assert second.headers["Retry-After"] == "1"
    assert answers[0].status_code == 201


class Killed(Exception):  # noqa: N818 (named for what happens)
    """The process is dead: from now on it reaches the database no more."""


def test_a_key_makes_one_thing_whatever_statement_its_process_is_killed_before(
    client: TestClient, thaw: "Thaw"
) -> None:
    body = {"model": thaw.ready_model(), "training_file": thaw.ready_dataset()}
    engine, left = thaw.services.db.engine, [0]

    def kill(*_: object, **__: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    for k in itertools.count(1):
        key = {"Idempotency-Key": f"killed-{k}"}
        left[0] = k
        with _listening(engine, kill):
            first = client.post(JOBS, json=body, headers=key)
        with thaw.services.db.begin() as session:  # a minute passes
            session.execute(update(IdempotencyRow).values(created_at=now() - 61))
        again = client.post(JOBS, json=body, headers=key)
        assert again.status_code == 201
        assert len(client.get(JOBS, params={"limit": 100}).json()["data"]) == k, "one for each key"
        if first.status_code == 201:
            assert again.content == first.content
            assert k > 10
            return


@contextmanager
def _listening(engine: Any, hook: Callable[..., None]) -> Iterator[None]:
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, hook)
    try:
        yield
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, hook)


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ümlaut"])
def test_a_key_that_can_not_be_is_422(client: TestClient, thaw: "Thaw", key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    response = client.post("/v1/models", json={"file": thaw.upload()}, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/idempotency-key"


def test_without_a_key_every_request_makes_something(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload()
    assert thaw.post("/v1/models", {"file": file})["id"] != thaw.post("/v1/models", {"file": file})["id"]
    assert len(client.get("/v1/models").json()["data"]) == 2


def test_only_answers_of_what_was_made_are_kept(client: TestClient, thaw: "Thaw") -> None:
    client.post("/v1/models", json={"file": "file-0"}, headers=KEY)
    fresh = idempotency.begin(thaw.services, "default", key=KEY["Idempotency-Key"], fingerprint="any")
    assert fresh is None
