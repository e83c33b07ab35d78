"""Pages and filters."""

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

JOBS = "/v1/fine_tuning/jobs"
LISTS = ["/v1/files", "/v1/uploads", "/v1/models", "/v1/datasets", JOBS]


def test_an_empty_list_is_a_list(client: TestClient) -> None:
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert [client.get(path).json() for path in LISTS] == [empty] * len(LISTS)


def test_pages_follow_each_other_without_gap_or_repetition(client: TestClient, thaw: "Thaw") -> None:
    ids = [thaw.upload(name=f"{number}") for number in range(5)]
    first = client.get("/v1/files?limit=2").json()
    assert [file["id"] for file in first["data"]] == [ids[4], ids[3]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[4], ids[3], True)
    second = client.get(f"/v1/files?limit=2&after={first['last_id']}").json()
    assert [file["id"] for file in second["data"]] == [ids[2], ids[1]]
    last = client.get(f"/v1/files?limit=2&after={second['last_id']}").json()
    assert ([file["id"] for file in last["data"]], last["has_more"]) == ([ids[0]], False)
    oldest_first = client.get("/v1/files?order=asc").json()
    assert [file["id"] for file in oldest_first["data"]] == ids


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=many", "/limit"),
        ("order=up", "/order"),
        ("after=%00", "/after"),
        ("after=nothing", "/after"),
        ("stauts=ready", "/stauts"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(client: TestClient, query: str, pointer: str) -> None:
    for path in LISTS:
        response = client.get(f"{path}?{query}")
        assert response.status_code == 422, path
        assert [problem["pointer"] for problem in response.json()["errors"]] == [pointer]


def test_an_unknown_parameter_is_answered_with_those_that_there_are(client: TestClient) -> None:
    allowed = client.get(f"{JOBS}?team=shoes").json()["errors"][0]["allowed"]
    assert allowed == [
        "after", "created_after", "dataset", "limit", "metadata[key]", "model", "order", "status",
    ]  # fmt: skip


def test_jobs_are_filtered_by_each_and_all_of_their_filters(client: TestClient, thaw: "Thaw") -> None:
    model, dataset = thaw.ready_model(), thaw.ready_dataset()
    shoes = thaw.job(model=model, metadata={"team": "shoes", "stage": "1"})
    hats = thaw.job(training_file=dataset, metadata={"team": "hats", "stage": "1"})
    client.post(f"{JOBS}/{hats}/cancel")
    created = client.get(f"{JOBS}/{hats}").json()["created_at"]
    for query, found in {
        "": [hats, shoes],
        "status=queued": [shoes],
        "status=cancelled": [hats],
        f"model={model}": [shoes],
        f"dataset={dataset}": [hats],
        "metadata[team]=shoes": [shoes],
        "metadata[stage]=1": [hats, shoes],
        "metadata[stage]=1&metadata[team]=hats": [hats],
        "metadata[team]=": [],
        "status=queued&metadata[team]=hats": [],
        f"created_after={created + 1000}": [],
        "created_after=1": [hats, shoes],
    }.items():
        assert [job["id"] for job in client.get(f"{JOBS}?{query}").json()["data"]] == found, query


def test_jobs_are_filtered_by_as_many_pairs_as_a_job_can_have_and_no_more(client: TestClient, thaw: "Thaw") -> None:
    pairs = {f"k{number}": "v" for number in range(16)}
    job = thaw.job(metadata=pairs)
    wanted = {f"metadata[{key}]": value for key, value in pairs.items()}
    assert [found["id"] for found in client.get(JOBS, params=wanted).json()["data"]] == [job]
    for more in (17, 70):
        response = client.get(JOBS, params={f"metadata[k{number}]": "v" for number in range(more)})
        assert response.status_code == 422
        (problem,) = response.json()["errors"]
        assert (problem["pointer"], problem["code"]) == ("/metadata", "too_many")
        assert f"at most 16 pairs of metadata; received filters by {more}" in problem["message"]


@pytest.mark.parametrize("query", ["status=done", "created_after=yesterday", "created_after=nan", "created_after=-1"])
def test_a_filter_that_can_not_be_is_422(client: TestClient, query: str) -> None:
    assert client.get(f"{JOBS}?{query}").status_code == 422


def test_jobs_in_a_list_leave_their_reports_out(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.job()
    thaw.succeed(thaw.claim(identifier))
    (job,) = client.get(JOBS).json()["data"]
    assert job["report"] is None
    assert job["artifacts"] != []
    assert client.get(f"{JOBS}/{identifier}").json()["report"] is not None
