"""`/v1/files`."""

import base64
import hashlib
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import pytest
from fastapi.testclient import TestClient

from app.api.schemas.files import Purpose
from app.domain.file import PURPOSES

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

CONTENT = bytes(range(256)) * 5000  # over one mebibyte, so that it is written in pieces
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def form(*parts: str | bytes) -> bytes:
    """A multipart body by hand: pairs of headers and content."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    text = b"".join(b"--b\r\nContent-Disposition: form-data; " + _bytes(head) + b"\r\n\r\n" + _bytes(body) + b"\r\n"
                    for head, body in pairs)  # fmt: skip
    return text + b"--b--\r\n"


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def stored_blobs(thaw: "Thaw") -> list[str]:
    return [path.name for path in thaw.services.settings.artifacts_dir().rglob("*") if path.is_file()]


def test_an_upload_is_stored_hashed_and_described(client: TestClient) -> None:
    content = CONTENT[:500_000]
    response = client.post("/v1/files", files={"file": ("shoes.zip", content)}, data={"purpose": "fine-tune"})
    assert response.status_code == 201
    file = response.json()
    assert response.headers["Location"] == f"/v1/files/{file['id']}"
    assert file["object"] == "file"
    assert (file["bytes"], file["filename"], file["purpose"]) == (500_000, "shoes.zip", "fine-tune")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert isinstance(file["created_at"], int)
    assert client.get(response.headers["Location"]).json() == file


@pytest.mark.parametrize(
    "body",
    [
        form('name="purpose"', "fine-tune", 'name="file"; filename="a.npz"', b"\x00\x01data"),
        form('name="file"; filename="a.npz"', b"\x00\x01data", 'name="purpose"', "fine-tune"),
    ],
    ids=["purpose first", "file first"],
)
def test_the_purpose_may_stand_before_or_behind_the_file(client: TestClient, body: bytes) -> None:
    file = client.post("/v1/files", content=body, headers=FORM).json()
    assert (file["filename"], file["purpose"], file["bytes"]) == ("a.npz", "fine-tune", 6)


def test_a_body_that_arrives_byte_by_byte_is_one_file(client: TestClient) -> None:
    body = form('name="file"; filename="a"', b"content", 'name="purpose"', "batch")

    def dribble() -> Iterator[bytes]:
        yield from (body[at : at + 1] for at in range(len(body)))

    file = client.post("/v1/files", content=dribble(), headers=FORM).json()
    assert file["sha256"] == hashlib.sha256(b"content").hexdigest()


def test_the_content_comes_back_unchanged(client: TestClient, thaw: "Thaw") -> None:
    response = client.get(f"/v1/files/{thaw.upload(b'all of it', 'a b.zip')}/content")
    assert response.content == b"all of it"
    assert response.headers["Content-Disposition"] == 'attachment; filename="a b.zip"'


@pytest.mark.parametrize("announced", [True, False], ids=["with Content-Length", "chunked"])
def test_an_upload_over_the_limit_is_413_and_leaves_nothing(thaw: "Thaw", announced: bool) -> None:
    body = form('name="file"; filename="big"', b"x" * 1_000_001)
    response = thaw.client.post("/v1/files", content=body if announced else iter([body]), headers=FORM)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "too_large"
    assert stored_blobs(thaw) == []
    assert thaw.client.get("/v1/files").json()["data"] == []


def test_a_body_far_over_the_limit_is_refused_before_it_is_read(thaw: "Thaw") -> None:
    def body() -> Iterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    headers = {**FORM, "Content-Length": str(10**10)}
    response = thaw.client.post("/v1/files", content=body(), headers=headers)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (form('name="purpose"', "fine-tune"), "/file"),
        (form('name="file"; filename="a"', "x", 'name="purpose"', "nonsense"), "/purpose"),
        (
            form('name="file"; filename="a"', "x", 'name="expires_after[anchor]"', "created_at"),
            "/expires_after[anchor]",
        ),
    ],
)
def test_a_wrong_form_is_422_names_the_field_and_leaves_nothing(thaw: "Thaw", body: bytes, pointer: str) -> None:
    response = thaw.client.post("/v1/files", content=body, headers=FORM)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == pointer
    assert stored_blobs(thaw) == []


def test_a_wrong_purpose_is_answered_with_those_that_are_allowed(client: TestClient) -> None:
    body = form('name="file"; filename="a"', "x", 'name="purpose"', "nonsense")
    assert client.post("/v1/files", content=body, headers=FORM).json()["errors"][0]["allowed"] == list(PURPOSES)


def test_a_form_that_was_cut_off_is_422_and_leaves_nothing(thaw: "Thaw") -> None:
    body = form('name="file"; filename="a"', "x" * 1000)[:-10]
    assert thaw.client.post("/v1/files", content=body, headers=FORM).status_code == 422
    assert stored_blobs(thaw) == []


def test_json_instead_of_a_form_is_422_with_what_was_expected(client: TestClient) -> None:
    response = client.post("/v1/files", json={"purpose": "fine-tune"})
    assert response.status_code == 422
    assert "multipart/form-data" in response.json()["detail"]


def test_a_full_disk_is_507_and_leaves_nothing(thaw: "Thaw", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thaw.services.store._spool, "_min_free_bytes", 2**62)
    response = thaw.client.post("/v1/files", files={"file": ("a", b"x")})
    assert response.status_code == 507
    assert response.json()["code"] == "storage_full"
    assert stored_blobs(thaw) == []


def test_a_deleted_file_is_gone(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload()
    assert client.delete(f"/v1/files/{file}").json() == {"id": file, "object": "file", "deleted": True}
    assert client.get(f"/v1/files/{file}").status_code == 404
    assert client.delete(f"/v1/files/{file}").status_code == 404


def test_files_are_listed_newest_first_and_by_purpose(client: TestClient, thaw: "Thaw") -> None:
    first, second = thaw.upload(name="1"), thaw.upload(name="2")
    client.post("/v1/files", files={"file": ("3", b"x")}, data={"purpose": "batch"})
    listed = client.get("/v1/files", params={"purpose": "fine-tune"}).json()
    assert [file["id"] for file in listed["data"]] == [second, first]


def test_purposes_are_those_of_the_domain() -> None:
    assert get_args(Purpose) == PURPOSES


def test_a_content_digest_is_the_contents_sha256(client: TestClient, thaw: "Thaw") -> None:
    digest = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
    headers = client.get(f"/v1/files/{thaw.upload(b'content')}/content").headers
    assert headers["Content-Digest"] == headers["Repr-Digest"] == f"sha-256=:{digest}:"


@pytest.mark.service
def test_an_upload_whose_client_leaves_in_the_middle_leaves_nothing(live: "Thaw") -> None:
    body = form('name="file"; filename="big"', b"x" * 900_000)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer thaw_test-key\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    address = (live.client.base_url.host, live.client.base_url.port or 0)
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + body[:800_000])
        deadline = time.monotonic() + 20
        while not stored_blobs(live) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stored_blobs(live) != []  # it is being written
    while stored_blobs(live) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stored_blobs(live) == []
    assert live.client.get("/v1/files").json()["data"] == []
