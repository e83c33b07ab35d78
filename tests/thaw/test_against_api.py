"""The client and the command line against the real API process (without workers: nothing trains here)."""

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.thaw.conftest import Cut
from thaw import Client
from thaw.errors import AuthenticationError, ConnectionFailedError, InvalidRequestError, NotFoundError
from thaw.records import Event, Job

pytestmark = pytest.mark.service

CONTENT = os.urandom(3_000_000)


class Api:
    """`python -m app.main` on a data folder and a port of its own; may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("THAW_")},
            "THAW_DATA_DIR": str(folder),
            "THAW_PORT": str(self.port),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "app.main"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
        self._wait(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)

    def kill(self) -> None:
        """Without a warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def get(self, path: str) -> list[dict[str, Any]]:
        """The entries of a list, as the service sends them."""
        headers = {"Authorization": f"Bearer {(self.folder / 'api-key').read_text().strip()}"}
        listed: list[dict[str, Any]] = httpx2.get(f"{self.url}{path}", headers=headers, trust_env=False).json()["data"]
        return listed

    def client(self, **options: object) -> Client:
        return Client(self.url, api_key_file=self.folder / "api-key", **options)  # type: ignore[arg-type]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line as a process of its own, which finds this service by its data folder."""
        command = [sys.executable, "-m", "thaw", *words]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False, cwd=self.folder
        )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx2.get(f"{self.url}/healthz", trust_env=False).is_success
        except httpx2.TransportError:
            return False

    @staticmethod
    def _wait(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    running = Api(tmp_path_factory.mktemp("data"))
    running.start()
    note = {"url": running.url, "pid": 1, "api_key_file": str(running.folder / "api-key")}
    (running.folder / "run").mkdir(exist_ok=True)
    (running.folder / "run" / "service.json").write_text(json.dumps(note))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def file(api: Api) -> Path:
    found = api.folder / "digits.npz"
    found.write_bytes(CONTENT)
    return found


def submitted(client: Client, file: Path) -> Job:
    """A job that waits for its files for ever, as there is no worker."""
    model = client.models.push(file, name="digits", wait=False)
    dataset = client.datasets.push(file, wait=False)
    return client.jobs.create(model=model.id, training_file=dataset.id, metadata={"team": "shoes"})


def test_an_upload_comes_back_as_it_was(api: Api, file: Path, tmp_path: Path) -> None:
    with api.client() as client:
        stored = client.files.upload(file)
        assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert client.files.download(stored.id, tmp_path).read_bytes() == CONTENT
        assert (tmp_path / "digits.npz").exists()


def test_a_download_that_is_cut_is_resumed_with_a_range(api: Api, file: Path, tmp_path: Path) -> None:
    class Cutting(httpx2.HTTPTransport):
        """Cuts the first download after a million bytes."""

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            response = super().handle_request(request)
            seen.append((request.headers.get("range"), response.status_code))
            if request.url.path.endswith("/content") and "range" not in request.headers:
                body = response.read()
                response = httpx2.Response(200, headers=response.headers, stream=Cut(body[:1_000_000]))
            return response

    seen: list[tuple[str | None, int]] = []
    with api.client() as client:
        stored = client.files.upload(file)
    with api.client(transport=Cutting()) as cut:
        assert cut.files.download(stored.id, tmp_path).read_bytes() == CONTENT
    assert seen[1:] == [(None, 200), ("bytes=1000000-", 206)]


def test_a_job_is_created_listed_watched_and_cancelled(api: Api, file: Path) -> None:
    with api.client() as client:
        job = submitted(client, file)
        assert (job.status, job.metadata) == ("validating_files", {"team": "shoes"})
        assert [phase["epochs"] for phase in job.schedule] == [4, 16]
        assert job.id in [found.id for found in client.jobs.list(metadata={"team": "shoes"})]
        assert list(client.jobs.list(metadata={"team": "hats"})) == []
        assert client.jobs.cancel(job.id).status == "cancelled"
        events = list(client.jobs.events(job.id))
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "completed"
        assert list(client.jobs.events(job.id, after=events[-1].number)) == []
        assert [event.number for event in client.jobs.events(job.id, follow_on=False)] == [e.number for e in events]
        assert client.jobs.wait(job.id, timeout=5).finished


def test_the_same_create_twice_is_one_job(api: Api, file: Path) -> None:
    with api.client() as client:
        job = submitted(client, file)
        request = {"model": job.model, "training_file": job.training_file}
        first, second = (client.jobs.create(idempotency_key="only-once", **request) for _ in range(2))  # type: ignore[typeddict-item]
        assert first.id == second.id != job.id


def test_errors_name_every_wrong_field(api: Api) -> None:
    with api.client() as client, pytest.raises(InvalidRequestError) as caught:
        client.jobs.create(model="model-1", training_file="ds-1", schedule=[{"epochs": 0}], batch_size=-1)
    assert {"/schedule/0/epochs", "/batch_size"} <= {problem.pointer for problem in caught.value.problems}
    assert str(caught.value).count("\n") == len(caught.value.problems)


def test_a_wrong_key_and_an_unknown_job_are_told_apart(api: Api) -> None:
    with Client(api.url, "wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.jobs.get("ftjob-01jd8k2v7e0000000000000000")
    with api.client() as client, pytest.raises(NotFoundError):
        client.jobs.get("ftjob-01jd8k2v7e0000000000000000")


def test_lists_go_on_over_pages(api: Api) -> None:
    with api.client() as client:
        made = {client.files.upload(io.BytesIO(bytes([number])), filename="x").id for number in range(105)}
        found = [stored.id for stored in client.files.list(order="asc")]
        assert made <= set(found)
        assert found == sorted(found)
        assert len(found) == len(set(found)) > 100


def test_watching_survives_a_restart_of_the_service(api: Api, file: Path) -> None:
    with api.client() as client:
        job = submitted(client, file)
        heard: list[Event] = []
        watcher = threading.Thread(target=lambda: heard.extend(client.jobs.events(job.id)))
        watcher.start()
        api.stop()
        with pytest.raises(ConnectionFailedError):
            client.jobs.get(job.id)
        api.start()
        client.jobs.cancel(job.id)
        watcher.join(30)
    assert not watcher.is_alive()
    assert [event.number for event in heard] == list(range(1, len(heard) + 1))
    assert heard[-1].type == "completed"


PART = 16 * 1024**2
PARTS = 6


def sizes(folder: Path) -> list[int]:
    """Of its files, in bytes; one may be gone before it is looked at."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return found


def test_a_large_upload_outlives_sigkill_in_the_middle_of_a_part_and_of_its_end(api: Api) -> None:
    path = api.folder / "large.npz"
    path.write_bytes(os.urandom(PARTS * PART))
    temporary = api.folder / "artifacts" / "tmp"

    def in_the_middle_of_the_second_part(done: int, _total: int | None) -> None:
        if done > 1.5 * PART:
            api.kill()

    with api.client() as client, pytest.raises(ConnectionFailedError):
        client.files.upload(path, on_progress=in_the_middle_of_the_second_part)
    (rest,) = temporary.iterdir()
    assert 0 < rest.stat().st_size < PART
    rest.unlink()  # as a start a day later does
    api.start()
    (upload,) = api.get("/v1/uploads?status=pending")
    assert [part["number"] for part in api.get(f"/v1/uploads/{upload['id']}/parts")] == [1]

    def kill_while_parts_are_put_together() -> None:
        deadline = time.monotonic() + 60
        while not any(size > PART + 1000 for size in sizes(temporary)):
            assert time.monotonic() < deadline, "they were put together too soon to be seen, or never"
            time.sleep(0.001)
        api.kill()

    killing = threading.Thread(target=kill_while_parts_are_put_together)
    killing.start()
    with api.client() as client, pytest.raises(ConnectionFailedError):
        client.files.upload(path)
    killing.join(60)
    (rest,) = temporary.iterdir()
    assert PART < rest.stat().st_size < PARTS * PART
    api.start()
    assert len(api.get(f"/v1/uploads/{upload['id']}/parts")) == PARTS
    assert upload["filename"] not in [file["filename"] for file in api.get("/v1/files?limit=100")]

    before = (api.folder / "log").read_text().count("uploads/{upload_id}/parts")
    pushed = api.run("datasets", "push", path.name, "--no-wait", "--json")
    assert pushed.returncode == 0, pushed.stderr
    asked = (api.folder / "log").read_text().count("uploads/{upload_id}/parts") - before
    assert asked == 1, "the list of the parts; none was sent again"
    with api.client() as client:
        file = client.files.get(json.loads(pushed.stdout)["file"])
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [each["file"]["id"] for each in api.get("/v1/uploads")] == [file.id]


# === The command line ===


def test_the_command_line_finds_the_service_by_its_data_folder(api: Api, file: Path) -> None:
    pushed = api.run("models", "push", file.name, "--no-wait", "--json")
    assert pushed.returncode == 0, pushed.stderr
    model = json.loads(pushed.stdout)
    assert model["name"] == "digits"
    listed = api.run("--json", "models", "list")
    assert model["id"] in [found["id"] for found in json.loads(listed.stdout)["data"]]


def test_a_wrong_job_file_is_refused_with_every_field_and_exit_code_1(api: Api, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: model-1\ntraining_file: ds-1\nseedd: 3\nschedule: [{epochs: 0}]\n")
    answer = api.run("jobs", "create", "-f", str(tmp_path / "job.yaml"))
    assert answer.returncode == 1
    assert "/seedd: " in answer.stderr
    assert "/schedule/0/epochs: " in answer.stderr


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Tests started in the background of a shell have SIGINT ignored, and what they start would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_leaves_the_watching_with_130_and_the_job_alone(api: Api, file: Path) -> None:
    with api.client() as client:
        job = submitted(client, file)
        words = [sys.executable, "-m", "thaw", "jobs", "watch", job.id]
        watching = subprocess.Popen(
            words, env=api.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        assert watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        try:
            _, notes = watching.communicate(timeout=60)
        finally:
            watching.kill()
        assert watching.returncode == 130
        assert "the job goes on" in notes
        found = client.jobs.get(job.id)
        assert (found.status, found.cancel_requested_at) == ("validating_files", None)
