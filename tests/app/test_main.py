"""The API process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.main import create_app, listen
from app.settings import Settings

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

    def __init__(self, data_dir: Path, *arguments: str, **options: Any) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("THAW_")},
            "THAW_DATA_DIR": str(data_dir),
            "THAW_PORT": "0",
            "THAW_EVENT_POLL_SECONDS": "0.1",
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
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()
        self.key_file = data_dir / "api-key"

    @property
    def url(self) -> str:
        return self.said.removeprefix("Thaw API on ")

    def client(self) -> httpx2.Client:
        key = self.key_file.read_text(encoding="utf-8").strip()
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=20)

    def logged(self) -> list[dict[str, Any]]:
        self.log.flush()
        self.log.seek(0)
        return [json.loads(line) for line in self.log]

    def end(self) -> float:
        """SIGTERM; how long it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)
        return time.monotonic() - started


@contextlib.contextmanager
def running(data_dir: Path, *arguments: str, **options: Any) -> Iterator[Program]:
    program = Program(data_dir, *arguments, **options)
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
        received, first = [], threading.Event()

        def watch() -> None:
            events = f"/v1/fine_tuning/jobs/{job}/events"
            with client.stream("GET", events, headers={"Accept": "text/event-stream"}) as response:
                for line in response.iter_lines():
                    received.append(line)
                    first.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert first.wait(10)
        assert program.end() < 3
        watcher.join(5)
        assert not watcher.is_alive()
        assert received[0] == "event: status"


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
