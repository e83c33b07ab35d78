"""`/v1/models`."""

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from app.domain.errors import Failure
from app.services import claims, reports

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw


def test_registering_a_file_makes_a_model_that_waits_for_its_check(client: TestClient, thaw: "Thaw") -> None:
    file = thaw.upload(name="mobilenet.keras")
    response = client.post("/v1/models", json={"file": file, "rescale": "zero_to_one", "labels": ["a", "b"]})
    assert response.status_code == 201
    model = response.json()
    assert response.headers["Location"] == f"/v1/models/{model['id']}"
    assert (model["object"], model["owned_by"], model["status"], model["file"]) == (
        "model", "thaw", "validating", file,
    )  # fmt: skip
    assert (model["name"], model["rescale"], model["labels"]) == ("mobilenet", "zero_to_one", ["a", "b"])
    assert model["created"] == model["created_at"]
    assert model["summary"] is None
    assert thaw.doorbell.rung == [("register", model["id"], "prepare")]


def test_a_ready_model_tells_what_it_is(client: TestClient, thaw: "Thaw") -> None:
    model = client.get(f"/v1/models/{thaw.ready_model(name='my source')}").json()
    assert (model["status"], model["name"], model["error"]) == ("ready", "my source", None)
    assert model["summary"] == {
        "format": "keras",
        "class_name": "Sequential",
        "input_shape": [None, 4],
        "inputs": [],
        "output_shape": [None, 4],
        "parameters": 60,
        "layers": 4,
        "origin": None,
        "digest": model["summary"]["digest"],
        "upgrades": [],
    }


def test_layers_are_listed_as_cuts_count_them(client: TestClient, thaw: "Thaw") -> None:
    listed = client.get(f"/v1/models/{thaw.ready_model()}/layers").json()
    assert [layer["path"] for layer in listed["data"]] == ["input", "hidden_1", "hidden_2", "output"]
    assert (listed["object"], listed["first_id"], listed["last_id"], listed["has_more"]) == (
        "list", "input", "output", False,
    )  # fmt: skip
    assert listed["data"][1]["output_shape"] == [None, 4]


def test_layers_of_a_model_that_is_not_ready_are_409(client: TestClient, thaw: "Thaw") -> None:
    model = thaw.post("/v1/models", {"file": thaw.upload()})["id"]
    response = client.get(f"/v1/models/{model}/layers")
    assert response.status_code == 409
    assert "'validating'" in response.json()["detail"]


def test_a_model_that_failed_its_check_says_why(client: TestClient, thaw: "Thaw") -> None:
    identifier = thaw.post("/v1/models", {"file": thaw.upload()})["id"]
    claim = claims.claim_model(thaw.services, identifier, worker="worker-1")
    assert claim is not None
    failure = Failure(error_class="user", code="unusable_source", message="It holds a Lambda layer.")
    reports.fail_model(thaw.services, claim, failure)
    model = client.get(f"/v1/models/{identifier}").json()
    assert model["status"] == "failed"
    assert (model["error"]["class"], model["error"]["code"]) == ("user", "unusable_source")
    assert model["error"]["message"] == "It holds a Lambda layer."


def test_a_registered_model_downloads_as_it_was_uploaded(client: TestClient, thaw: "Thaw") -> None:
    model = thaw.post("/v1/models", {"file": thaw.upload(b"the very bytes", "net.h5")})["id"]
    response = client.get(f"/v1/models/{model}/content")
    assert response.content == b"the very bytes"
    assert response.headers["Content-Disposition"] == 'attachment; filename="net.h5"'


def test_the_result_of_a_job_downloads_as_its_model_file(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job()
    thaw.succeed(thaw.claim(job), model=b"fine-tuned")
    result = client.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"]
    assert client.get(f"/v1/models/{result}").json()["job"] == job
    assert client.get(f"/v1/models/{result}/content").content == b"fine-tuned"


def test_a_result_downloads_in_each_format_that_its_job_made(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job(exports=["onnx", "litert"])
    files = {"model.onnx": b"for onnx", "model.tflite": b"for litert", "report.json": b"{}"}
    thaw.succeed(thaw.claim(job), model=b"for keras", files=files)
    result = client.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"]
    url = f"/v1/models/{result}/content"
    assert client.get(f"/v1/models/{result}").json()["formats"] == ["keras", "litert", "onnx"]
    assert client.get(url).content == client.get(f"{url}?format=keras").content == b"for keras"
    onnx = client.get(f"{url}?format=onnx")
    assert onnx.content == b"for onnx"
    assert onnx.headers["Content-Disposition"] == 'attachment; filename="model.onnx"'
    assert client.head(f"{url}?format=litert").headers["Content-Length"] == "10"


def test_a_format_that_is_not_there_is_404_and_says_which_are(client: TestClient, thaw: "Thaw") -> None:
    job = thaw.job()
    thaw.succeed(thaw.claim(job))
    result = client.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"]
    response = client.get(f"/v1/models/{result}/content?format=onnx")
    assert response.status_code == 404
    assert "not there as 'onnx'. There are: keras. Name it in 'exports'" in response.json()["detail"]
    assert client.get(f"/v1/models/{result}/content?format=gguf").status_code == 422


def test_an_upload_has_the_format_that_its_check_found(client: TestClient, thaw: "Thaw") -> None:
    waiting = thaw.post("/v1/models", {"file": thaw.upload(b"who knows", "model.onnx")})["id"]
    assert client.get(f"/v1/models/{waiting}").json()["formats"] == []
    assert client.get(f"/v1/models/{waiting}/content?format=onnx").status_code == 404
    assert client.get(f"/v1/models/{waiting}/content").content == b"who knows"
    ready = thaw.ready_model()
    assert client.get(f"/v1/models/{ready}").json()["formats"] == ["keras"]
    assert client.get(f"/v1/models/{ready}/content?format=keras").content == b"some bytes"


def test_a_model_of_the_catalogue_is_registered_by_its_name(client: TestClient, thaw: "Thaw") -> None:
    response = client.post("/v1/models", json={"reference": "keras:MobileNet?alpha=0.25&input_size=224"})
    assert response.status_code == 201
    model = response.json()
    assert (model["reference"], model["file"], model["status"]) == ("keras:MobileNet?alpha=0.25", None, "validating")
    assert model["name"] == "MobileNet-alpha-0.25"
    assert thaw.doorbell.rung == [("register", model["id"], "prepare")]
    named = client.post("/v1/models", json={"reference": "keras:VGG16", "name": "mine", "labels": ["a", "b"]}).json()
    assert (named["name"], named["labels"]) == ("mine", ["a", "b"])


def test_there_is_nothing_to_download_of_a_model_of_the_catalogue(client: TestClient, thaw: "Thaw") -> None:
    model = thaw.post("/v1/models", {"reference": "keras:VGG16"})["id"]
    response = client.get(f"/v1/models/{model}/content")
    assert response.status_code == 409
    assert "'keras:VGG16'" in response.json()["detail"]


def test_the_catalogue_lists_every_name_with_its_options(client: TestClient) -> None:
    listed = client.get("/v1/catalogue").json()
    found = {entry["id"]: entry for entry in listed["data"]}
    assert len(found) == 40
    assert listed["has_more"] is False
    assert found["keras:MobileNetV2"] == {
        "id": "keras:MobileNetV2",
        "object": "catalogue_model",
        "parameters": 3_538_984,
        "input_size": 224,
        "rescale": "minus_one_to_one",
        "options": {
            "include_top": ["true", "false"],
            "input_size": ["224", "32 to 2048", "any"],
            "pooling": ["avg", "max"],
            "weights": ["imagenet", "random"],
            "alpha": ["1", "0.35", "0.5", "0.75", "1.3", "1.4"],
        },
    }
    assert client.get("/v1/catalogue", headers={"Authorization": "Bearer none"}).status_code == 401


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/file"),
        ({"file": "file-0", "reference": "keras:VGG16"}, "/file"),
        ({"reference": "keras:VGG61"}, "/reference"),
        ({"reference": "keras:VGG16?alpha=2"}, "/reference"),
        ({"reference": "mobilenet.keras"}, "/reference"),
        ({"reference": "keras:VGG16", "rescale": "zero_to_one"}, "/rescale"),
        ({"file": "file-0"}, "/file"),
        ({"file": "file-0", "rescale": "to_ten"}, "/rescale"),
        ({"file": "file-0", "name": "a\nb"}, "/name"),
        ({"file": "file-0", "format": "onnx"}, "/format"),
    ],
)
def test_a_wrong_registration_is_422_at_the_field(client: TestClient, body: dict[str, str], pointer: str) -> None:
    response = client.post("/v1/models", json=body)
    assert response.status_code == 422
    assert [problem["pointer"] for problem in response.json()["errors"]] == [pointer]


def test_a_model_that_a_job_needs_is_not_deleted(client: TestClient, thaw: "Thaw") -> None:
    model = thaw.ready_model()
    job = thaw.job(model=model)
    response = client.delete(f"/v1/models/{model}")
    assert response.status_code == 409
    assert (response.json()["code"], response.json()["needed_by"]) == ("in_use", [job])
    client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    assert client.delete(f"/v1/models/{model}").json() == {"id": model, "object": "model", "deleted": True}
    assert client.get(f"/v1/models/{model}").status_code == 404


def test_models_are_listed_by_status(client: TestClient, thaw: "Thaw") -> None:
    ready, waiting = thaw.ready_model(), thaw.post("/v1/models", {"file": thaw.upload()})["id"]
    assert [model["id"] for model in client.get("/v1/models?status=ready").json()["data"]] == [ready]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [waiting, ready]
