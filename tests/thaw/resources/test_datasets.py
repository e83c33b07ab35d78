"""`client.datasets`."""

from pathlib import Path

import pytest

from tests.thaw.conftest import FakeService
from thaw import Client
from thaw.errors import WorkFailedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "digits.npz"
    found.write_bytes(b"arrays")
    return found


def test_push_sends_the_options_and_returns_what_was_found_out(
    service: FakeService, client: Client, path: Path
) -> None:
    service.checks = 2
    dataset = client.datasets.push(path, task="binary", test_fraction=0.3, class_names=["8", "9"])
    asked = service.datasets[dataset.id]["asked"]
    expected = {"task": "binary", "test_fraction": 0.3, "class_names": ["8", "9"]}
    assert asked == {"file": next(iter(service.files)), **expected}
    assert dataset.splits is not None
    assert dataset.splits["train"].class_counts == {"8": 120, "9": 130}


def test_data_that_cannot_be_used_is_an_error_with_the_reason(service: FakeService, client: Client, path: Path) -> None:
    service.unusable = {"class": "user", "code": "unusable_dataset", "message": "There is one class only: 'cat'."}
    with pytest.raises(WorkFailedError, match="one class only"):
        client.datasets.push(path)


def test_preview_list_get_and_delete(service: FakeService, client: Client, path: Path) -> None:
    dataset = client.datasets.push(path)
    assert client.datasets.preview(dataset.id)[0].label == "8"
    assert [found.id for found in client.datasets.list()] == [dataset.id]
    assert client.datasets.get(dataset.id).task == "binary"
    client.datasets.delete(dataset.id)
    assert service.datasets == {}
