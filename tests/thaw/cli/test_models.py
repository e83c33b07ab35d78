"""`thaw models`."""

import json
from pathlib import Path

import pytest

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "digits.keras"
    found.write_bytes(b"a model")
    return found


def test_push_waits_and_shows_what_was_found_out(service: FakeService, run: Run, file: Path, tmp_path: Path) -> None:
    service.checks = 2
    (tmp_path / "labels.txt").write_text("zero\none\n\n")
    result = run("models", "push", file, "--name", "d", "--rescale", "none", "--labels", tmp_path / "labels.txt")
    assert result.exit_code == 0, result.output
    (model,) = service.models.values()
    assert model["asked"] == {"file": model["file"], "name": "d", "rescale": "none", "labels": ["zero", "one"]}
    assert str(model["id"]) in result.stdout
    assert "? x 8 x 8 x 1" in result.stdout
    assert "12,345" in result.stdout


def test_push_of_a_name_of_the_catalogue_uploads_nothing(service: FakeService, run: Run) -> None:
    result = run("models", "push", "keras:MobileNet?alpha=0.25")
    assert result.exit_code == 0, result.output
    (model,) = service.models.values()
    assert model["asked"] == {"reference": "keras:MobileNet?alpha=0.25"}
    assert service.files == {}
    assert "from        keras:MobileNet?alpha=0.25" in result.stdout


def test_catalogue_lists_names_with_a_word_in_them_and_their_options(run: Run) -> None:
    result = run("models", "catalogue", "mobile")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["keras:MobileNet", "4,253,864", "224", "alpha=1|0.25"] in rows
    assert "VGG16" not in result.stdout
    names = [model["id"] for model in json.loads(run("models", "catalogue", "--json").stdout)["data"]]
    assert names == ["keras:MobileNet", "keras:VGG16"]


def test_push_without_waiting(run: Run, file: Path) -> None:
    result = run("models", "push", file, "--no-wait", "--json")
    assert json.loads(result.stdout)["status"] == "validating"


def test_push_of_a_refused_model_fails_with_the_reason(service: FakeService, run: Run, file: Path) -> None:
    service.unusable = {"class": "user", "code": "unusable_source", "message": "It has a Lambda layer."}
    result = run("models", "push", file, "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["class"]) == ("unusable_source", "user")
    assert "Lambda" in error["message"]


def test_push_of_a_file_that_is_not_there_is_exit_code_2(run: Run) -> None:
    assert run("models", "push", "absent.keras").exit_code == 2


def test_list_shows_the_newest_and_says_that_there_are_more(service: FakeService, run: Run) -> None:
    names = [service.add_model() for _ in range(3)]
    result = run("models", "list", "--limit", 2)
    assert [name in result.stdout for name in names] == [False, True, True]
    assert "There are more" in result.stderr
    assert "There are more" not in run("models", "list", "--all").stderr
    listed = json.loads(run("models", "list", "--limit", 2, "--json").stdout)
    assert [model["id"] for model in listed["data"]] == names[:0:-1]
    assert listed["has_more"] is True


def test_list_of_nothing_says_so(run: Run) -> None:
    result = run("models", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "none" in result.stderr


def test_show_has_the_layer_table_with_legal_cuts(service: FakeService, run: Run) -> None:
    result = run("models", "show", service.add_model())
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["0", "flatten", "Flatten", "?", "x", "64", "-", "yes"] in rows
    assert ["1", "inner/dense", "Dense", "?", "x", "32", "2,080", "no:", "a", "branch", "goes", "around", "it"] in rows


def test_show_in_json_is_one_document_with_the_layers(service: FakeService, run: Run) -> None:
    model = service.add_model()
    shown = json.loads(run("models", "show", model, "--json").stdout)
    assert shown["id"] == model
    assert [layer["path"] for layer in shown["layers"]] == ["flatten", "inner/dense"]


def test_show_of_a_failed_model_says_why(service: FakeService, run: Run) -> None:
    error = {"class": "user", "code": "unusable_source", "message": "It is no zip file."}
    result = run("models", "show", service.add_model(status="failed", error=error, summary=None))
    assert result.exit_code == 0
    assert "It is no zip file." in result.stdout


def test_pull_takes_a_format_and_names_the_file_after_it(service: FakeService, run: Run) -> None:
    model = service.add_model(file="file-1", formats=["keras", "onnx", "litert_int8"])
    service.contents |= {"onnx": b"for onnx", "litert_int8": b"for litert"}
    assert "formats     keras, onnx, litert_int8" in run("models", "show", model).stdout
    assert run("models", "pull", model, "--format", "onnx").exit_code == 0
    assert Path(f"{model}.onnx").read_bytes() == b"for onnx"
    assert run("models", "pull", model, "--format", "litert_int8", "-o", "shoes.tflite").exit_code == 0
    assert Path("shoes.tflite").read_bytes() == b"for litert"
    assert run("models", "pull", model, "--format", "gguf").exit_code == 2


def test_pull_saves_the_file_and_does_not_replace_another(service: FakeService, run: Run) -> None:
    service.contents["file-1"] = b"the model"
    model = service.add_model(file="file-1")
    result = run("models", "pull", model)
    assert result.exit_code == 0, result.output
    assert Path(f"{model}.keras").read_bytes() == b"the model"
    again = run("models", "pull", model)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert run("models", "pull", model, "--force").exit_code == 0
    pulled = json.loads(run("models", "pull", model, "-o", "mine.keras", "--json").stdout)
    assert pulled == {"id": model, "path": str(Path("mine.keras").absolute()), "bytes": 9}


def test_several_inputs_are_shown_by_name(service: FakeService, run: Run) -> None:
    inputs = [
        {"name": name, "shape": [None, 8, size], "dtype": "float32"} for name, size in (("left", 2), ("right", 3))
    ]
    name = service.add_model(summary={"format": "keras", "input_shape": [None, 8, 2], "inputs": inputs})
    assert "left: ? x 8 x 2, right: ? x 8 x 3" in run("models", "show", name).stdout
