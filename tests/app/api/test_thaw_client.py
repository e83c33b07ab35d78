"""Our own client against the real API: what one writes, the other reads."""

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from thaw import Client
from thaw.connection import Connection
from thaw.errors import (
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    ThawClientError,
)

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw
    from thaw.records import File

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


# === Large files, in parts ===

PART = 50_000
LARGE = bytes(range(256)) * 1200
PARTS = 7
"""Of `LARGE`, the last one shorter."""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large here; nobody waits before another try."""
    monkeypatch.setattr("thaw.uploading.LARGE_BYTES", 100_000)
    monkeypatch.setattr("thaw.parts.PART_BYTES", PART)
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "sleep", lambda _seconds: None)
    (tmp_path / "large.npz").write_bytes(LARGE)
    return tmp_path / "large.npz"


class Network(httpx2.HTTPTransport):
    """Does to the requests for parts, and to those that complete, what the test plans for them, one after another.

    `lose`: it never arrives. `deafen`: it arrives, and its answer is lost. `busy`: 503. `interrupt`: Ctrl-C.
    `before`: what is done just before the first request about parts with this method goes.
    """

    def __init__(self, before: tuple[str, Callable[[], None]] | None = None, **plans: Sequence[str | None]) -> None:
        super().__init__()
        self._before = before
        self._plans = {kind: list(plan) for kind, plan in plans.items()}
        self.sent = {"parts": 0, "complete": 0, "files": 0}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        kind = request.url.path.rpartition("/")[2]
        if self._before is not None and (request.method, kind) == (self._before[0], "parts"):
            do, self._before = self._before[1], None
            do()
        if request.method != "POST" or kind not in self.sent:
            return super().handle_request(request)
        self.sent[kind] += 1
        plan = self._plans.get(kind)
        happens = plan.pop(0) if plan else None
        if happens == "interrupt":
            raise KeyboardInterrupt
        if happens == "busy":
            return httpx2.Response(503, json={"detail": "Busy."})
        if happens == "lose":
            message = "Broken pipe"
            raise httpx2.WriteError(message)
        response = super().handle_request(request)
        if happens == "deafen":
            response.read()
            message = "Connection reset"
            raise httpx2.ReadError(message)
        return response


@contextlib.contextmanager
def over(network: Network, live: "Thaw") -> Iterator[Client]:
    """A client as of a process of its own."""
    with Client(base_url=str(live.client.base_url), api_key="thaw_test-key", transport=network) as client:
        yield client


def test_a_large_file_goes_in_parts_and_arrives_whole(live: "Thaw", path: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with over(Network(), live) as client:
        file = client.files.upload(path, on_progress=lambda done, total: seen.append((done, total)))
        assert (file.filename, file.bytes) == ("large.npz", len(LARGE))
        assert client.files.download(file.id, tmp_path / "back").read_bytes() == LARGE
    (upload,) = live.client.get("/v1/uploads?status=completed").json()["data"]
    assert upload["file"] == file.raw
    assert {total for _, total in seen} == {len(LARGE)}
    assert seen[-1][0] == len(LARGE)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_each_part_is_tried_again_by_itself(live: "Thaw", path: Path) -> None:
    network = Network(parts=[None, "lose", None, "busy", "deafen", None, "lose"], complete=["busy", "deafen"])
    with over(network, live) as client:
        file = client.files.upload(path)
    assert file.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert network.sent == {"parts": PARTS + 4, "complete": 3, "files": 0}
    assert len(live.client.get("/v1/files").json()["data"]) == 1


def test_a_part_that_never_gets_through_is_given_up(live: "Thaw", path: Path) -> None:
    network = Network(parts=[None, *["lose"] * 20])
    with over(network, live) as client, pytest.raises(ConnectionFailedError):
        client.files.upload(path)
    assert network.sent["parts"] == 1 + 5


@pytest.mark.parametrize("happens", ["interrupt", "deafen"])
def test_who_is_interrupted_and_begins_anew_sends_one_part_again_at_most(
    live: "Thaw", path: Path, happens: str
) -> None:
    interrupted = Network(parts=[None, None, None, happens, *["interrupt"] * 9])
    with over(interrupted, live) as client, pytest.raises(KeyboardInterrupt):
        client.datasets.push(path, wait=False)
    arrived = len(live.client.get(f"/v1/uploads/{_only(live)}/parts").json()["data"])
    assert arrived == (3 if happens == "interrupt" else 4)
    again, seen = Network(), []
    with over(again, live) as client:
        dataset = client.datasets.push(path, wait=False, on_progress=lambda done, _total: seen.append(done))
    assert again.sent["parts"] == PARTS - arrived
    assert seen[0] == arrived * PART, "what is there counts as sent"
    assert live.client.get(f"/v1/files/{dataset.file}/content").content == LARGE


def _only(live: "Thaw") -> str:
    (upload,) = live.client.get("/v1/uploads").json()["data"]
    return str(upload["id"])


def test_two_that_push_the_same_file_at_once_share_its_parts(live: "Thaw", path: Path) -> None:
    with over(Network(parts=[None, "interrupt"]), live) as client, pytest.raises(KeyboardInterrupt):
        client.files.upload(path)
    with over(Network(), live) as one, over(Network(), live) as other, ThreadPoolExecutor(2) as threads:
        files = list(threads.map(lambda client: client.files.upload(path), (one, other)))
    assert files[0] == files[1]
    assert live.client.get(f"/v1/files/{files[0].id}/content").content == LARGE


@pytest.mark.parametrize("late", ["part", "list"])
def test_a_push_whose_file_somebody_else_completes_meanwhile_takes_that(live: "Thaw", path: Path, late: str) -> None:
    """The other one finishes just before our request for a part, or for the parts that are there."""
    with over(Network(parts=[None, "interrupt"]), live) as client, pytest.raises(KeyboardInterrupt):
        client.files.upload(path)
    files: list[File] = []

    def finish() -> None:
        with over(Network(), live) as other:
            files.append(other.files.upload(path))

    network = Network(before=("POST" if late == "part" else "GET", finish))
    with over(network, live) as client:
        assert client.datasets.push(path, wait=False).file == files[0].id
    assert network.sent == {"parts": 1, "complete": 0, "files": 0}
    assert len(live.client.get("/v1/files").json()["data"]) == 1


def test_a_push_whose_upload_somebody_else_cancels_meanwhile_says_so(live: "Thaw", path: Path) -> None:
    def cancel() -> None:
        live.client.post(f"/v1/uploads/{_only(live)}/cancel", json={}).raise_for_status()

    with (
        over(Network(before=("POST", cancel)), live) as client,
        pytest.raises(ConflictError, match="is cancelled: no part can be added"),
    ):
        client.files.upload(path)


def test_a_push_takes_the_file_that_is_there_already_and_an_upload_makes_another(live: "Thaw", path: Path) -> None:
    with over(Network(), live) as client:
        file = client.files.upload(path)
    network = Network()
    with over(network, live) as client:
        assert client.datasets.push(path, wait=False).file == file.id
        assert client.models.push(path, wait=False).file == file.id
        assert network.sent["parts"] == 0
        assert client.files.upload(path).id != file.id


def test_the_same_idempotency_key_gives_the_same_file(live: "Thaw", path: Path) -> None:
    network = Network(complete=["deafen", *["lose"] * 9])
    with over(network, live) as client:
        with pytest.raises(ConnectionFailedError):
            client.files.upload(path, idempotency_key="once")
        assert client.files.upload(path, idempotency_key="once") == client.files.upload(path, idempotency_key="once")
    assert network.sent["parts"] == PARTS
    assert len(live.client.get("/v1/files").json()["data"]) == 1


def test_parts_of_another_size_are_not_gone_on_with(live: "Thaw", path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with over(Network(parts=[None, "interrupt"]), live) as client, pytest.raises(KeyboardInterrupt):
        client.files.upload(path)
    monkeypatch.setattr("thaw.parts.PART_BYTES", PART // 2)
    with over(Network(), live) as client:
        assert client.files.upload(path).sha256 == hashlib.sha256(LARGE).hexdigest()
    assert len(live.client.get("/v1/uploads").json()["data"]) == 2


def test_parts_that_were_damaged_in_the_store_are_not_gone_on_with_for_ever(live: "Thaw", path: Path) -> None:
    with over(Network(complete=["interrupt"]), live) as client, pytest.raises(KeyboardInterrupt):
        client.datasets.push(path, wait=False)
    blob = next((live.services.settings.artifacts_dir() / "sha256").glob("*/*/*"))
    blob.chmod(0o640)
    blob.write_bytes(b"!" + blob.read_bytes()[1:])
    with over(Network(), live) as client:
        with pytest.raises(ServerError, match="damaged"):
            client.datasets.push(path, wait=False)
        dataset = client.datasets.push(path, wait=False)
    assert live.client.get(f"/v1/files/{dataset.file}/content").content == LARGE


def test_a_file_that_changes_while_it_is_sent_is_not_uploaded(live: "Thaw", path: Path) -> None:
    def change(done: int, _total: int | None) -> None:
        if done == 2 * PART:
            path.write_bytes(LARGE[:-1] + b"!")

    with over(Network(), live) as client, pytest.raises(ThawClientError, match="changed while it was uploaded"):
        client.files.upload(path, on_progress=change)
    assert live.client.get("/v1/files").json()["data"] == []


def test_parts_are_no_larger_than_the_service_takes(live: "Thaw", path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = live.services.settings.model_copy(update={"max_part_bytes": 30_000})
    monkeypatch.setattr(live.app.state, "services", dataclasses.replace(live.services, settings=smaller))
    network = Network()
    with over(network, live) as client:
        client.files.upload(path)
    assert network.sent["parts"] == -(-len(LARGE) // 30_000)
