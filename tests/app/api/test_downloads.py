"""Downloads: ranges, conditions, HEAD, names."""

import hashlib
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from app.api.downloads import content_disposition

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

CONTENT = bytes(range(256)) * 1500  # 384,000 bytes
TAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def url(thaw: "Thaw") -> str:
    return f"/v1/files/{thaw.upload(CONTENT)}/content"


@pytest.mark.parametrize(
    ("wanted", "part", "content_range"),
    [
        ("bytes=0-99", CONTENT[:100], "bytes 0-99/384000"),
        ("bytes=383990-", CONTENT[-10:], "bytes 383990-383999/384000"),
        ("bytes=-10", CONTENT[-10:], "bytes 383990-383999/384000"),
        ("bytes=1000-300000", CONTENT[1000:300001], "bytes 1000-300000/384000"),
    ],
    ids=["start", "end", "suffix", "middle"],
)
def test_a_range_is_206_with_exactly_those_bytes(
    client: TestClient, url: str, wanted: str, part: bytes, content_range: str
) -> None:
    response = client.get(url, headers={"Range": wanted})
    assert response.status_code == 206
    assert response.content == part
    assert response.headers["Content-Range"] == content_range
    assert response.headers["Content-Length"] == str(len(part))
    assert "Content-Digest" not in response.headers  # that would be the digest of the part alone


def test_all_of_it_comes_with_length_tag_and_the_offer_of_ranges(client: TestClient, url: str) -> None:
    response = client.get(url)
    assert response.status_code == 200
    assert response.content == CONTENT
    assert response.headers["Content-Length"] == "384000"
    assert response.headers["ETag"] == TAG
    assert response.headers["Accept-Ranges"] == "bytes"


def test_a_range_behind_the_end_is_416_with_the_length(client: TestClient, url: str) -> None:
    response = client.get(url, headers={"Range": "bytes=384000-"})
    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */384000"
    assert response.json()["code"] == "range_not_satisfiable"


def test_if_range_of_other_content_gets_all_of_it(client: TestClient, url: str) -> None:
    headers = {"Range": "bytes=0-9"}
    assert client.get(url, headers={**headers, "If-Range": TAG}).status_code == 206
    other = client.get(url, headers={**headers, "If-Range": '"other"'})
    assert other.status_code == 200
    assert other.content == CONTENT


def test_if_none_match_of_the_same_content_is_304_without_it(client: TestClient, url: str) -> None:
    response = client.get(url, headers={"If-None-Match": TAG})
    assert response.status_code == 304
    assert response.content == b""


def test_head_tells_what_get_would_and_sends_nothing(client: TestClient, url: str) -> None:
    got, head = client.get(url), client.head(url)
    assert head.status_code == 200
    assert head.content == b""
    assert {name: head.headers[name] for name in ("ETag", "Content-Length", "Content-Digest", "Content-Type")} == {
        name: got.headers[name] for name in ("ETag", "Content-Length", "Content-Digest", "Content-Type")
    }


def test_an_empty_file_downloads_as_nothing(client: TestClient, thaw: "Thaw") -> None:
    response = client.get(f"/v1/files/{thaw.upload(b'')}/content")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("model.keras", 'attachment; filename="model.keras"'),
        ('a"b\\c.zip', "attachment; filename=\"a_b_c.zip\"; filename*=UTF-8''a%22b%5Cc.zip"),
        ("schöne Schuhe.zip", "attachment; filename=\"sch_ne Schuhe.zip\"; filename*=UTF-8''sch%C3%B6ne%20Schuhe.zip"),
        ("a\r\nSet-Cookie: x", "attachment; filename=\"a__Set-Cookie_ x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
    ],
)
def test_a_filename_can_not_break_out_of_its_header(name: str, header: str) -> None:
    assert content_disposition(name) == header
