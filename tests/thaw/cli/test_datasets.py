"""`thaw datasets`."""

import json
from pathlib import Path

import pytest

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "digits.npz"
    found.write_bytes(b"arrays")
    return found


def test_push_sends_the_options_and_shows_classes_splits_and_warnings(
    service: FakeService, run: Run, file: Path
) -> None:
    service.checks = 1
    words = ("--task", "binary", "--test-fraction", "0.3", "--class-name", "eight", "--class-name", "nine")
    result = run("datasets", "push", file, *words)
    assert result.exit_code == 0, result.output
    (dataset,) = service.datasets.values()
    expected = {"task": "binary", "test_fraction": 0.3, "class_names": ["eight", "nine"]}
    assert dataset["asked"] == {"file": dataset["file"], **expected}
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["CLASS", "train", "validation"] in rows
    assert ["8", "120", "25"] in rows
    assert ["all", "250", "50"] in rows
    assert "Warning: It is small." in result.stderr


def test_list_and_show(service: FakeService, run: Run, file: Path) -> None:
    pushed = json.loads(run("datasets", "push", file, "--json").stdout)
    assert pushed["id"] in run("datasets", "list").stdout
    assert "300" in run("datasets", "list").stdout
    assert json.loads(run("datasets", "show", pushed["id"], "--json").stdout) == service.datasets[pushed["id"]]


def test_unusable_data_fails_with_the_reason(service: FakeService, run: Run, file: Path) -> None:
    service.unusable = {"class": "user", "code": "unusable_dataset", "message": "There is one class only."}
    result = run("datasets", "push", file)
    assert result.exit_code == 1
    assert "one class only" in result.stderr


def test_arrays_for_several_inputs_are_shown_by_name(service: FakeService, run: Run, file: Path) -> None:
    pushed = json.loads(run("datasets", "push", file, "--json").stdout)
    arrays = {"left": [8, 2], "right": [5]}
    service.datasets[pushed["id"]]["inputs"] = [
        {"name": name, "example_shape": shape, "dtype": "uint8", "value_range": [0, 1]}
        for name, shape in arrays.items()
    ]
    assert "left: 8 x 2 uint8, right: 5 uint8" in run("datasets", "show", pushed["id"]).stdout
