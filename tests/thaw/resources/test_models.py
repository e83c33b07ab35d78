"""`client.models`."""

import json
from pathlib import Path

import pytest

from tests.thaw.conftest import FakeService
from thaw import Client
from thaw.errors import WaitTimeoutError, WorkFailedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "digits.keras"
    found.write_bytes(b"model")
    return found


def test_push_uploads_registers_and_waits_until_the_check_is_over(
    service: FakeService, client: Client, path: Path
) -> None:
    service.checks = 3
    model = client.models.push(path, name="digits", rescale="zero_to_one", labels=["0", "1"])
    assert model.status == "ready"
    asked = service.models[model.id]["asked"]
    assert asked == {
        "file": next(iter(service.files)),
        "name": "digits",
        "rescale": "zero_to_one",
        "labels": ["0", "1"],
    }


def test_what_is_left_out_is_not_sent(service: FakeService, client: Client, path: Path) -> None:
    model = client.models.push(path)
    assert service.models[model.id]["asked"] == {"file": next(iter(service.files))}


def test_push_without_waiting_returns_while_the_check_runs(client: Client, path: Path) -> None:
    assert client.models.push(path, wait=False).status == "validating"


def test_a_refused_model_is_an_error_with_the_reason(service: FakeService, client: Client, path: Path) -> None:
    service.unusable = {"class": "user", "code": "unusable_source", "message": "It has a Lambda layer 'l'."}
    with pytest.raises(WorkFailedError, match="Lambda layer 'l'") as caught:
        client.models.push(path)
    assert caught.value.code == "unusable_source"
    assert caught.value.identifier in service.models


def test_waiting_ends_at_the_deadline(service: FakeService, client: Client, path: Path) -> None:
    service.checks = 1000
    with pytest.raises(WaitTimeoutError, match="goes on"):
        client.models.push(path, timeout=0)


def test_waiting_is_cheap_while_nothing_changes(service: FakeService, client: Client) -> None:
    model = service.add_model(status="validating")
    seen: list[str] = []

    with pytest.raises(WaitTimeoutError):
        client.models.wait(model, timeout=0.2, on_change=lambda found: seen.append(found.status))
    assert seen == ["validating"]
    assert all("if-none-match" in request.headers for request in service.requests[1:])


def test_lists_fetch_the_next_page_only_when_it_is_needed(service: FakeService, client: Client) -> None:
    names = [service.add_model() for _ in range(250)]
    found = client.models.list()
    assert next(found).id == names[-1]
    assert len(service.requests) == 1
    assert [model.id for model in client.models.list(order="asc")] == names
    assert len(service.requests) == 1 + 3


def test_lists_are_filtered_by_the_service(service: FakeService, client: Client) -> None:
    ready = service.add_model()
    service.add_model(status="failed")
    assert [model.id for model in client.models.list(status="ready")] == [ready]


def test_the_layer_table_says_which_cuts_are_legal(service: FakeService, client: Client) -> None:
    rows = client.models.layers(service.add_model())
    assert [(row.path, row.legal_cut, row.illegal_because) for row in rows] == [
        ("flatten", True, None),
        ("inner/dense", False, "a branch goes around it"),
    ]


def test_delete_deletes(service: FakeService, client: Client) -> None:
    client.models.delete(service.add_model())
    assert service.models == {}


def test_labels_may_be_any_sequence(service: FakeService, client: Client) -> None:
    client.models.register("file-1", labels=("a", "b"))
    assert json.loads(service.requests[0].content)["labels"] == ["a", "b"]
