"""`/v1/uploads`: shapes, refusals, and what is left of parts that do not arrive."""

import hashlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

UPLOADS = "/v1/uploads"
CONTENT = bytes(range(256)) * 1000
BOUNDARY = "b"


def begin(client: httpx2.Client, content: bytes = CONTENT, **changes: Any) -> dict[str, Any]:
    body = {"bytes": len(content), "filename": "shoes.zip", "mime_type": "application/zip", "purpose": "fine-tune"}
    response = client.post(UPLOADS, json={**body, **changes})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def send(client: httpx2.Client, upload: str, content: bytes, **fields: Any) -> Any:
    form = {name: str(value) for name, value in fields.items()}
    return client.post(f"{UPLOADS}/{upload}/parts", files={"data": ("part", content)}, data=form)


def complete(client: httpx2.Client, upload: str, *ids: str, **checksums: str) -> Any:
    return client.post(f"{UPLOADS}/{upload}/complete", json={"part_ids": ids, **checksums})


def parts_of(client: httpx2.Client, upload: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get(f"{UPLOADS}/{upload}/parts?order=asc&limit=100").json()["data"]
    return listed


def stored(thaw: "Thaw") -> int:
    """Files in the store, whether they count or not."""
    folder = thaw.services.settings.artifacts_dir()
    return len([path for name in ("sha256", "tmp") for path in (folder / name).rglob("*") if path.is_file()])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# === A whole life ===


def test_parts_arrive_are_listed_and_become_a_file(client: TestClient, thaw: "Thaw") -> None:
    response = client.post(UPLOADS, json={"bytes": len(CONTENT), "filename": "C:\\data\\shoes.zip"})
    upload = response.json()
    assert (response.status_code, response.headers["Location"]) == (201, f"{UPLOADS}/{upload['id']}")
    assert {name: upload[name] for name in ("object", "bytes", "filename", "purpose", "status", "file")} == {
        "object": "upload", "bytes": len(CONTENT), "filename": "shoes.zip", "purpose": "fine-tune",
        "status": "pending", "file": None,
    }  # fmt: skip
    assert upload["expires_at"] - upload["created_at"] == 86_400

    first = send(client, upload["id"], CONTENT[:100_000])
    assert first.status_code == 201
    assert client.get(first.headers["Location"]).json() == first.json()
    second = send(client, upload["id"], CONTENT[100_000:], sha256=sha256(CONTENT[100_000:])).json()
    assert parts_of(client, upload["id"]) == [first.json(), second]
    assert (second["object"], second["upload_id"], second["number"]) == ("upload.part", upload["id"], 2)
    assert (second["bytes"], second["sha256"]) == (156_000, sha256(CONTENT[100_000:]))
    assert client.get("/v1/files").json()["data"] == [], "nothing is visible yet"

    done = complete(client, upload["id"], first.json()["id"], second["id"], sha256=sha256(CONTENT))
    assert done.status_code == 200
    file = done.json()["file"]
    assert (done.json()["status"], file["bytes"], file["sha256"]) == ("completed", len(CONTENT), sha256(CONTENT))
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert client.get(f"/v1/files/{file['id']}/content").content == CONTENT
    assert client.get(f"{UPLOADS}/{upload['id']}").json() == done.json()
    assert complete(client, upload["id"], first.json()["id"], second["id"]).json() == done.json()
    assert client.get(first.headers["Location"]).status_code == 404

    thaw.client.delete(f"/v1/files/{file['id']}")
    assert client.get(f"{UPLOADS}/{upload['id']}").json()["file"] is None


def test_uploads_are_found_by_status_digest_and_name(client: TestClient) -> None:
    first, second = begin(client, sha256=sha256(CONTENT)), begin(client)
    client.post(f"{UPLOADS}/{second['id']}/cancel")
    for query, found in {
        "": [second, first],
        "?status=pending": [first],
        "?status=cancelled": [second],
        f"?sha256={sha256(CONTENT)}": [first],
        f"?sha256={sha256(CONTENT)}&filename=/tmp/shoes.zip": [first],
        f"?sha256={sha256(CONTENT)}&filename=hats.zip": [],
        f"?sha256={'0' * 64}": [],
    }.items():
        listed = client.get(UPLOADS + query).json()["data"]
        assert [upload["id"] for upload in listed] == [upload["id"] for upload in found], query


# === Refusals ===


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filename": "a"}, "/bytes"),
        ({"bytes": -1, "filename": "a"}, "/bytes"),
        ({"bytes": 2**60, "filename": "a"}, "/bytes"),
        ({"bytes": 1, "filename": ""}, "/filename"),
        ({"bytes": 1, "filename": "a", "sha256": "beef"}, "/sha256"),
        ({"bytes": 1, "filename": "a", "purpose": "nonsense"}, "/purpose"),
        ({"bytes": 1, "filename": "a", "expires_after": {}}, "/expires_after"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, body: dict[str, Any], pointer: str) -> None:
    response = client.post(UPLOADS, json=body)
    assert response.status_code == 422
    assert [problem["pointer"] for problem in response.json()["errors"]] == [pointer]


def test_a_file_over_the_limit_is_413_before_anything_is_sent(client: TestClient) -> None:
    response = client.post(UPLOADS, json={"bytes": 1_000_001, "filename": "a"})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert "1,000,001" in response.json()["detail"]


def test_a_file_for_which_there_is_no_room_is_507(client: TestClient, thaw: "Thaw", monkeypatch: Any) -> None:
    monkeypatch.setattr(thaw.services.store._spool, "free_bytes", lambda: 1999)
    response = client.post(UPLOADS, json={"bytes": 1000, "filename": "a"})
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")
    assert client.post(UPLOADS, json={"bytes": 999, "filename": "a"}).status_code == 201


def test_a_part_that_is_larger_than_the_file_is_413_and_leaves_nothing(client: TestClient, thaw: "Thaw") -> None:
    upload = begin(client, b"short")["id"]
    response = send(client, upload, b"longer")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert (parts_of(client, upload), stored(thaw)) == ([], 0)


class TestPartLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_part_bytes": 1000})

    def test_a_part_over_the_limit_is_413_and_leaves_nothing(self, client: TestClient, thaw: "Thaw") -> None:
        assert client.get("/v1/capabilities").json()["limits"]["max_part_bytes"] == 1000
        upload = begin(client)["id"]
        assert send(client, upload, CONTENT[:1000]).status_code == 201
        for size in (1001, 3_000_000):
            response = send(client, upload, bytes(size))
            assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert (len(parts_of(client, upload)), stored(thaw)) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"sha256": "0" * 64}, "/sha256"),
        ({"sha256": "beef"}, "/sha256"),
        ({"number": 0}, "/number"),
        ({"number": 10_001}, "/number"),
        ({"offset": 0}, "/offset"),
    ],
)
def test_a_wrong_part_is_422_names_the_field_and_leaves_nothing(
    client: TestClient, thaw: "Thaw", fields: dict[str, Any], pointer: str
) -> None:
    upload = begin(client)["id"]
    response = send(client, upload, b"bytes", **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (422, pointer)
    assert (parts_of(client, upload), stored(thaw)) == ([], 0)


def test_a_form_without_the_parts_bytes_is_told_so(client: TestClient, thaw: "Thaw") -> None:
    upload = begin(client)["id"]
    response = client.post(f"{UPLOADS}/{upload}/parts", files={"file": ("a", b"bytes")})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "/data")
    assert stored(thaw) == 0


def test_parts_for_an_upload_that_has_ended_are_refused_before_they_are_read(client: TestClient) -> None:
    upload = begin(client)["id"]
    cancelled = client.post(f"{UPLOADS}/{upload}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert client.post(f"{UPLOADS}/{upload}/cancel").json() == cancelled.json()

    def body() -> Any:
        pytest.fail("the body was read")
        yield b""

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": "5000"}
    response = client.post(f"{UPLOADS}/{upload}/parts", content=body(), headers=headers)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "invalid_state_transition")
    assert (problem["current_status"], problem["allowed_actions"]) == ("cancelled", [])
    assert client.post(f"{UPLOADS}/upload-0/parts", content=body(), headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("part_ids", "pointer"),
    [(["part-0"], "/part_ids/0"), ([], "/part_ids"), (["a\ud800"], "/part_ids/0"), (["x"] * 10_001, "/part_ids")],
)
def test_completing_with_wrong_parts_is_422_and_changes_nothing(
    client: TestClient, part_ids: list[str], pointer: str
) -> None:
    import json

    upload = begin(client)
    body = json.dumps({"part_ids": part_ids})
    url, headers = f"{UPLOADS}/{upload['id']}/complete", {"Content-Type": "application/json"}
    response = client.post(url, content=body, headers=headers)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)
    assert client.get(f"{UPLOADS}/{upload['id']}").json() == upload


def test_without_a_key_nothing_is_told(stranger: TestClient, client: TestClient) -> None:
    upload = begin(client)["id"]
    for path in (UPLOADS, f"{UPLOADS}/{upload}", f"{UPLOADS}/{upload}/parts"):
        assert stranger.get(path).status_code == 401
    assert send(stranger, upload, b"x").status_code == 401


# === Again ===


def test_the_same_key_begins_one_upload(client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"bytes": 5, "filename": "a"}
    first, again = (client.post(UPLOADS, json=body, headers=key) for _ in range(2))
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.post(UPLOADS, json={**body, "bytes": 6}, headers=key).status_code == 422


@pytest.mark.parametrize("how", ["number", "key"])
def test_a_part_that_is_sent_again_is_there_once(client: TestClient, thaw: "Thaw", how: str) -> None:
    upload = begin(client)["id"]
    headers, form = ({"Idempotency-Key": "once"}, {}) if how == "key" else ({}, {"number": "1"})
    first, again = (
        client.post(f"{UPLOADS}/{upload}/parts", files={"data": ("a", b"bytes")}, data=form, headers=headers)
        for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert (len(parts_of(client, upload)), stored(thaw)) == (1, 1), "of the second nothing is kept"


def test_a_number_that_other_bytes_have_is_409(client: TestClient, thaw: "Thaw") -> None:
    upload = begin(client)["id"]
    send(client, upload, b"bytes", number=1)
    response = send(client, upload, b"other", number=1)
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert parts_of(client, upload)[0]["sha256"] == sha256(b"bytes")
    assert stored(thaw) == 1, "of what was refused nothing is kept"
