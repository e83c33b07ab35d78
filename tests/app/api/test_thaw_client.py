"""Our own client against the real API: what one writes, the other reads."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from thaw import Client
from thaw.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

pytestmark = pytest.mark.service


@pytest.fixture
def client(live: "Thaw") -> Iterator[Client]:
    with contextlib.closing(Client(base_url=str(live.client.base_url), api_key="thaw_test-key")) as client:
        yield client


def test_files_travel_both_ways(client: Client, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(bytes(range(256)) * 3000)
    file = client.files.upload(tmp_path / "data.npz")
    assert (file.filename, file.bytes) == ("data.npz", 768_000)
    assert [one.id for one in client.files.list()] == [file.id]
    client.files.delete(file.id)
    with pytest.raises(NotFoundError, match=file.id):
        client.files.get(file.id)


def test_models_and_datasets_are_understood(client: Client, live: "Thaw") -> None:
    model = client.models.get(live.ready_model())
    assert model.status == "ready"
    assert [layer.path for layer in client.models.layers(model.id)] == ["input", "hidden_1", "hidden_2", "output"]
    dataset = client.datasets.get(live.ready_dataset())
    assert dataset.classes == ["sandal", "shirt"]
    assert [example.label for example in client.datasets.preview(dataset.id)] == ["sandal"]


def test_a_job_is_watched_to_its_end_and_its_result_downloaded(client: Client, live: "Thaw", tmp_path: Path) -> None:
    job = client.jobs.create(model=live.ready_model(), training_file=live.ready_dataset(), seed=1)
    claim = live.claim(job.id)
    worker = threading.Timer(0.3, lambda: (live.run_epochs(claim, 3, checkpoint=b"w"), live.succeed(claim)))
    worker.start()
    events = list(client.jobs.events(job.id))
    worker.join()
    assert [event.type for event in events][-1] == "completed"
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert client.jobs.get(job.id).status == "succeeded"
    assert [epoch.step for epoch in client.jobs.metrics(job.id)] == [10, 20, 30]
    assert len(list(client.jobs.checkpoints(job.id))) == 1
    client.jobs.download(job.id, "model.keras", tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_bytes() == b"trained" * 1000


def test_every_wrong_field_arrives(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as wrong:
        client.jobs.create(model="m", training_file="d", batch_size=0, seed=-1)
    assert {problem.pointer for problem in wrong.value.problems} == {"/batch_size", "/seed"}


def test_health_and_capabilities_are_understood(client: Client) -> None:
    assert client.health().status == "ready"
    assert "sgd" in client.capabilities().optimizers
