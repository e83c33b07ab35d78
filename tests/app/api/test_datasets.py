"""`/v1/datasets`."""

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def test_making_a_dataset_of_a_file_keeps_what_was_asked_for(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload(name="shoes.tar.gz")
    response = client.post("/v1/datasets", json={"file": file, "kind": "images", "test_fraction": 0.2})
    assert response.status_code == 201
    dataset = response.json()
    assert response.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["object"], dataset["status"], dataset["file"], dataset["name"]) == (
        "dataset", "validating", file, "shoes",
    )  # fmt: skip
    assert dataset["options"]["test_fraction"] == 0.2
    assert dataset["classes"] is None
    assert thaw.doorbell.rung == [("validate", dataset["id"], "prepare")]


def test_a_ready_dataset_tells_what_validation_found(client: TestClient, thaw: "Thaw") -> None:
    dataset = client.get(f"/v1/datasets/{thaw.ready_dataset()}").json()
    assert (dataset["status"], dataset["task"], dataset["classes"]) == ("ready", "binary", ["sandal", "shirt"])
    assert dataset["splits"]["train"] == {"examples": 20, "class_counts": {"sandal": 10, "shirt": 10}}
    assert (dataset["example_shape"], dataset["value_range"]) == ([4], [0.0, 1.0])
    assert (dataset["corrupt"], dataset["corrupt_count"]) == ([], 0)


def test_the_preview_shows_examples(client: TestClient, thaw: "Thaw") -> None:
    listed = client.get(f"/v1/datasets/{thaw.ready_dataset()}/preview").json()
    assert listed["object"] == "list"
    assert listed["data"][0]["label"] == "sandal"
    assert listed["data"][0]["values"] == [0.0, 0.5, 1.0, 0.25]


def test_the_preview_of_a_dataset_that_is_not_ready_is_409(client: TestClient, thaw: "Thaw") -> None:
    dataset = thaw.post("/v1/datasets", {"file": thaw.upload()})["id"]
    assert client.get(f"/v1/datasets/{dataset}/preview").status_code == 409


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"file": "file-0", "kind": "video"}, ["/kind"]),
        ({"file": "file-0", "validation_fraction": 2, "split_seed": -1}, ["/validation_fraction", "/split_seed"]),
        ({"file": "file-0", "validation_fraction": 0.6, "test_fraction": 0.6}, [""]),
        ({"file": "file-0"}, ["/file"]),
    ],
)
def test_wrong_options_are_422_at_every_field(client: TestClient, body: dict[str, object], pointers: list[str]) -> None:
    response = client.post("/v1/datasets", json=body)
    assert response.status_code == 422
    assert [problem["pointer"] for problem in response.json()["errors"]] == pointers


def test_a_dataset_that_a_job_needs_is_not_deleted(client: TestClient, thaw: "Thaw") -> None:
    dataset = thaw.ready_dataset()
    thaw.job(training_file=dataset)
    assert client.delete(f"/v1/datasets/{dataset}").json()["code"] == "in_use"
    free = thaw.ready_dataset()
    assert client.delete(f"/v1/datasets/{free}").json() == {"id": free, "object": "dataset", "deleted": True}


def test_datasets_are_listed_by_status(client: TestClient, thaw: "Thaw") -> None:
    ready = thaw.ready_dataset()
    thaw.post("/v1/datasets", {"file": thaw.upload()})
    assert [dataset["id"] for dataset in client.get("/v1/datasets?status=ready").json()["data"]] == [ready]


def test_options_of_tables_are_kept_as_they_were_asked_for(client: TestClient, thaw: "Thaw") -> None:
    asked = {"target": "quality", "drop": ["id"], "categorical": ["zip"], "standardize": False}
    dataset = client.post("/v1/datasets", json={"file": thaw.upload(name="wine.csv"), **asked}).json()
    assert dataset["name"] == "wine"
    assert {name: dataset["options"][name] for name in asked} == asked
    several = client.post("/v1/datasets", json={"file": thaw.upload(name="x.csv"), "target": ["up", "down"]}).json()
    assert several["options"]["target"] == ["up", "down"]
    wrong = client.post("/v1/datasets", json={"file": "file-0", "columns": [], "kind": "sheet"})
    assert {problem["pointer"] for problem in wrong.json()["errors"]} == {"/columns", "/kind"}
