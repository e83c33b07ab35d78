"""Cheap polling."""

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from app.api.conditional import matches

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def test_polling_a_job_that_has_not_changed_is_304_and_empty(client: TestClient, thaw: "Thaw") -> None:
    job = f"/v1/fine_tuning/jobs/{thaw.job()}"
    first = client.get(job)
    again = client.get(job, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]


def test_a_change_gets_another_tag(client: TestClient, thaw: "Thaw") -> None:
    job = f"/v1/fine_tuning/jobs/{thaw.job()}"
    tag = client.get(job).headers["ETag"]
    client.post(f"{job}/cancel")
    changed = client.get(job, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.json()["status"] == "cancelled"
    assert changed.headers["ETag"] != tag


def test_lists_have_tags_too(client: TestClient, thaw: "Thaw") -> None:
    tag = client.get("/v1/files").headers["ETag"]
    assert client.get("/v1/files", headers={"If-None-Match": tag}).status_code == 304
    thaw.upload()
    assert client.get("/v1/files", headers={"If-None-Match": tag}).status_code == 200


def test_errors_have_no_tag(client: TestClient) -> None:
    assert "ETag" not in client.get("/v1/files/file-0").headers


@pytest.mark.parametrize(
    ("condition", "expected"),
    [(None, False), ('"a"', True), ('"b"', False), ('"b", "a"', True), ('W/"a"', True), ("*", True), ("a", False)],
)
def test_if_none_match_compares_weakly_as_rfc_9110_says(condition: str | None, expected: bool) -> None:
    assert matches(condition, '"a"') is expected
