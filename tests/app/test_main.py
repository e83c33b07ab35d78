"""The API process."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text

from app import main
from app.main import END_SECONDS, SHUTDOWN_SECONDS, create_app, listen
from app.settings import Settings
from app.standalone.service import KILL_AFTER_SECONDS
from app.storage.database import UPGRADE_LOCK, Database
from tests.servers import Postgres

HEAVY = ("tensorflow", "keras", "numpy", "h5py", "PIL", "scipy", "sklearn")


def test_importing_the_api_loads_nothing_of_tensorflow() -> None:
    code = f"import sys, app.main; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_importing_and_creating_touch_nothing(tmp_path: Path) -> None:
    create_app(Settings(data_dir=tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_port_0_is_any_free_port() -> None:
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        assert 0 < first.getsockname()[1] != second.getsockname()[1] > 0


def test_a_taken_port_is_an_error() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


# === The program ===

service = pytest.mark.service


class Program:
    """`python -m app.main` on a data folder of its own."""

    def __init__(self, data_dir: Path, *arguments: str, settings: Mapping[str, str], **options: Any) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("THAW_")},
            "THAW_DATA_DIR": str(data_dir),
            "THAW_PORT": "0",
            "THAW_EVENT_POLL_SECONDS": "0.1",
            **settings,
        }
        self.log = (data_dir.parent / "log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.main", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            **options,
        )
        self.key_file = data_dir / "api-key"

    @functools.cached_property
    def said(self) -> str:
        """Its first line, waited for."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline().strip())

    @property
    def url(self) -> str:
        return self.said.removeprefix("Thaw API on ")

    def client(self) -> httpx2.Client:
        url, key = self.url, self.key_file.read_text(encoding="utf-8").strip()
        return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=20)

    def logged(self) -> list[dict[str, Any]]:
        self.log.flush()
        self.log.seek(0)
        return [json.loads(line) for line in self.log]

    def printed(self) -> list[str]:
        self.log.seek(0)
        return self.log.readlines()

    def end(self) -> int:
        """SIGTERM; its exit code: 1 if ending in order took too long."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(
    data_dir: Path, *arguments: str, settings: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Program]:
    program = Program(data_dir, *arguments, settings=settings or {}, **options)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.log.close()


@service
def test_it_says_where_it_answers_makes_a_key_and_logs_json(tmp_path: Path) -> None:
    with running(tmp_path / "data") as program:
        assert program.said.startswith("Thaw API on http://127.0.0.1:"), program.logged()
        assert program.key_file.stat().st_mode & 0o777 == 0o600
        with program.client() as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get("/v1/files/file-secret", headers={"X-Request-Id": "mine-1"}).status_code == 404
            ready = client.get("/readyz")
            assert ready.status_code == 200
            assert {part["name"]: part["ok"] for part in ready.json()["parts"]}["broker"] is False
        lines = [line for line in program.logged() if line.get("request_id") == "mine-1"]
        assert [(line["event"], line["method"], line["path"], line["status"]) for line in lines] == [
            ("Answered a request.", "GET", "/v1/files/{file_id}", 404)
        ]
        assert lines[0]["ms"] > 0
        program.log.seek(0)
        text = program.log.read()
        assert "file-secret" not in text  # paths name other people's things
        assert program.key_file.read_text(encoding="utf-8").strip() not in text


@service
def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "data") as program, program.client() as client:
        file = client.post("/v1/files", files={"file": ("a", b"content")}).json()
        program.end()
    with running(tmp_path / "data") as program, program.client() as client:
        assert client.get(f"/v1/files/{file['id']}").json() == file
        assert client.get(f"/v1/files/{file['id']}/content").content == b"content"


@service
def test_an_open_event_stream_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    with running(tmp_path / "data") as program, program.client() as client:
        ids = [client.post("/v1/files", files={"file": (name, b"x")}).json()["id"] for name in ("a.keras", "b.npz")]
        job = client.post("/v1/fine_tuning/jobs", json={"model": ids[0], "training_file": ids[1]}).json()["id"]
        watcher, received = watching(client, job)
        assert program.end() != 1, "it had to leave as it was"
        assert not [line for line in program.logged() if "graceful" in line["event"]], "nobody waited for it"
        watcher.join(30)
        assert not watcher.is_alive()
        assert received[0] == "event: status"


def watching(client: httpx2.Client, job: str) -> tuple[threading.Thread, list[str]]:
    """A thread that follows a job's events, and the lines that it hears; there is one already."""
    received: list[str] = []
    first = threading.Event()

    def watch() -> None:
        events = f"/v1/fine_tuning/jobs/{job}/events"
        with (
            contextlib.suppress(httpx2.RemoteProtocolError, httpx2.ReadError),
            client.stream("GET", events, headers={"Accept": "text/event-stream"}) as response,
        ):
            for line in response.iter_lines():
                received.append(line)
                first.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert first.wait(10)
    return watcher, received


@service
def test_a_database_that_never_answers_does_not_keep_it_from_ending(tmp_path: Path, postgres: Postgres) -> None:
    settings = {"THAW_DATABASE_URL": postgres.create_database("frozen")}
    with running(tmp_path / "data", settings=settings) as program, program.client() as client:
        ids = [client.post("/v1/files", files={"file": (name, b"x")}).json()["id"] for name in ("a.keras", "b.npz")]
        job = client.post("/v1/fine_tuning/jobs", json={"model": ids[0], "training_file": ids[1]}).json()["id"]
        watcher, _ = watching(client, job)
        with frozen(postgres, "frozen"):
            with pytest.raises(httpx2.ReadTimeout):
                client.get(f"/v1/fine_tuning/jobs/{job}", timeout=1)
            program.end()  # if not in order, then by its last resort, after `END_SECONDS`
        watcher.join(30)
        assert not watcher.is_alive()


@service
def test_a_start_that_hangs_can_be_ended(tmp_path: Path, postgres: Postgres) -> None:
    database = Database(postgres.create_database("locked"))
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": UPGRADE_LOCK})
        connection.commit()
        with running(tmp_path / "data", settings={"THAW_DATABASE_URL": postgres.url("locked")}) as program:
            deadline = time.monotonic() + 60
            while not connection.scalar(waiting):
                assert time.monotonic() < deadline, program.logged()
                time.sleep(0.05)
            connection.commit()
            program.process.send_signal(signal.SIGTERM)
            assert program.process.wait(15) == 1
            assert program.logged()[-1]["event"] == "The API did not stop in time, leaving as it is."
    database.close()


@contextlib.contextmanager
def frozen(postgres: Postgres, database: str) -> Iterator[None]:
    """The server stands still: connections to that database are there, and nothing is said on them, nor on new ones."""
    engine = create_engine(postgres.url("postgres"))
    statement = text("SELECT pid FROM pg_stat_activity WHERE datname = :name")
    with engine.connect() as connection:
        backends = list(connection.scalars(statement, {"name": database}))
    engine.dispose()
    assert backends
    assert postgres.process
    pids = [postgres.process.pid, *backends]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class SlowUpload:
    """An upload that stands in the middle until `go_on` is set; its answer is `None` if there is none."""

    def __init__(self, client: httpx2.Client) -> None:
        self.go_on = threading.Event()
        self.answer: httpx2.Response | None = None
        self._client = client
        self._middle = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        assert self._middle.wait(10)

    def _send(self) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        with contextlib.suppress(httpx2.TransportError):
            self.answer = self._client.post("/v1/files", content=self._form(), headers=headers)

    def _form(self) -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
        for _ in range(32):  # more than all buffers on the way hold: the server is at it
            yield bytes(1024**2)
        self._middle.set()
        assert self.go_on.wait(60)
        yield b"\r\n--b--\r\n"

    def join(self) -> None:
        self.go_on.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@service
def test_a_request_that_is_being_answered_is_finished_first(tmp_path: Path) -> None:
    with running(tmp_path / "data") as program, program.client() as client:
        upload = SlowUpload(client)
        program.process.send_signal(signal.SIGTERM)
        until_refused(program.url)
        assert program.process.poll() is None
        upload.join()
        program.process.wait(10)
        assert upload.answer is not None
        assert (upload.answer.status_code, upload.answer.json()["bytes"]) == (201, 32 * 1024**2)
    with running(tmp_path / "data") as program, program.client() as client:
        assert client.get(f"/v1/files/{upload.answer.json()['id']}").status_code == 200


@service
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_of_either_kind_ends_it_at_once(tmp_path: Path, number: int) -> None:
    with running(tmp_path / "data") as program, program.client() as client:
        upload = SlowUpload(client)
        asked = time.monotonic()
        while program.process.poll() is None:  # until one counts as the second
            assert time.monotonic() - asked < 15
            program.process.send_signal(number)
            time.sleep(0.05)
        assert not any("graceful shutdown exceeded" in line for line in program.printed()), "it waited for nothing"
        upload.join()
        assert upload.answer is None or upload.answer.status_code == 500


def test_a_signal_that_comes_at_once_is_the_same_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves_within: list[float] = []
    monkeypatch.setattr(main, "_exit_in_time", leaves_within.append)
    with listen("127.0.0.1", 0) as listener:
        server = main.server_for(FastAPI(), listener)

    async def hear() -> None:
        monkeypatch.setattr(main, "AGAIN_SECONDS", 1000)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            server.handle_exit(number, None)
            assert (server.should_exit, server.force_exit) == (True, False)
        monkeypatch.setattr(main, "AGAIN_SECONDS", 0)
        server.handle_exit(signal.SIGTERM, None)
        assert server.force_exit
        await asyncio.sleep(0)

    asyncio.run(hear())
    assert leaves_within == [main.END_SECONDS, main.HURRY_SECONDS]


def until_refused(url: str) -> None:
    """Wait until nobody listens there any more."""
    host, port = url.removeprefix("http://").split(":")
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, "it still listens"
        time.sleep(0.01)


def test_it_is_gone_before_those_who_wait_for_it_kill_it() -> None:
    assert SHUTDOWN_SECONDS < END_SECONDS < KILL_AFTER_SECONDS


@service
def test_a_large_upload_is_not_held_in_memory(tmp_path: Path) -> None:
    size = 300 * 1024**2

    def form() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
        for _ in range(size // 1024**2):
            yield bytes(1024**2)
        yield b"\r\n--b--\r\n"

    with running(tmp_path / "data") as program, program.client() as client:
        before = peak_bytes(program.process.pid)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        response = client.post("/v1/files", content=form(), headers=headers)
        assert response.json()["bytes"] == size
        downloaded = 0
        with client.stream("GET", f"/v1/files/{response.json()['id']}/content") as content:
            for chunk in content.iter_bytes():
                downloaded += len(chunk)
        assert downloaded == size
        assert peak_bytes(program.process.pid) - before < size / 4


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells the peak of another process' memory")
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@service
def test_it_takes_over_a_socket_that_listens_already(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        descriptor = listener.fileno()
        os.set_inheritable(descriptor, True)
        with running(tmp_path / "data", "--fd", str(descriptor), pass_fds=[descriptor]) as program:
            assert program.url == f"http://127.0.0.1:{listener.getsockname()[1]}"
            with program.client() as client:
                assert client.get("/healthz").status_code == 200


@service
def test_a_taken_port_ends_it_with_the_reason(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        environment = {**os.environ, "THAW_DATA_DIR": str(tmp_path), "THAW_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "app.main"], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert "THAW_PORT" in done.stderr
    assert "Traceback" not in done.stderr
