"""The process tree as a whole, with stand-ins for the workers. With real ones: `python -m tests.chaos`."""

import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from app.standalone import broker
from app.standalone.folder import MARK
from app.standalone.service import HURRY_SECONDS, KILL_AFTER_SECONDS

pytestmark = pytest.mark.service

Start = Callable[..., Any]
Running = tuple[Any, Start]
Until = Callable[..., None]


def test_it_listens_on_loopback_only(running: Running) -> None:
    service, _ = running
    addresses = [
        connection.laddr.ip
        for process in [psutil.Process(service.running.pid), *service.tree()]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)


def test_clients_on_this_machine_find_it_and_nobody_else_can_read_where(running: Running) -> None:
    service, _ = running
    assert service.ready()["pid"] == service.running.pid
    assert stat.S_IMODE((service.data_dir / "run" / "service.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(service.data_dir.stat().st_mode) == 0o700
    assert service.get("/v1/files").status_code == 200


def test_a_second_up_on_the_same_folder_is_told_where_the_first_one_is(running: Running) -> None:
    service, start = running
    second = start()
    _, err = second.running.communicate(timeout=60)
    assert second.running.returncode == 1
    where = f"at {service.ready()['url']} (process {service.running.pid})"
    assert f"Thaw already runs on {service.data_dir} {where}" in err


@pytest.mark.parametrize(
    "words", [["app.main"], ["--queues", "cpu,prepare"], ["--unixsocket"]], ids=["api", "worker", "broker"]
)
def test_what_dies_is_started_again(running: Running, until: Until, words: list[str]) -> None:
    service, _ = running
    first = service.child(*words)
    first.kill()
    first.wait(10)
    until(lambda: service.child(*words), within=60)
    until(lambda: all(part["ok"] for part in service.get("/readyz").json()["parts"]), within=60)
    assert "was ended by SIGKILL; starting it again in 1 s" in service.log("up")


def test_ctrl_c_ends_everything_in_order_and_the_key_was_never_printed(up: Start) -> None:
    service = up()
    note = service.ready()
    tree = service.tree()
    assert len(tree) == 3
    key = Path(note["api_key_file"]).read_text().strip()
    seconds, out, err = service.end(signal.SIGINT)
    assert note["url"] in out
    assert note["api_key_file"] in out
    assert key not in out + err
    assert service.running.returncode == 0
    assert seconds < 10
    assert service.gone(tree)
    assert not (service.data_dir / "run" / "service.json").exists()
    ends = [line.split()[-2] for line in service.log("up").splitlines() if line.endswith(" ended")]
    assert ends == ["api", "worker", "broker"]


def test_a_worker_that_does_not_listen_is_killed_in_time_with_what_it_started(up: Start) -> None:
    service = up(STUBBORN="1")
    service.ready()
    tree = service.tree()
    assert len(tree) == 4
    seconds, _, _ = service.end()
    assert 8 < KILL_AFTER_SECONDS < 9
    assert KILL_AFTER_SECONDS <= seconds < 2 * KILL_AFTER_SECONDS
    assert service.running.returncode == 0
    assert service.gone(tree)


@pytest.mark.parametrize(("more", "within"), [(1, KILL_AFTER_SECONDS - 1), (2, HURRY_SECONDS - 1)])
def test_a_second_signal_ends_it_soon_and_a_third_at_once(up: Start, more: int, within: float) -> None:
    """A busy machine may be late once, not always."""
    assert any(_seconds_of_the_last_signal(up, more) < within for _ in range(3))


def _seconds_of_the_last_signal(up: Start, more: int) -> float:
    """How long it took after so many others, one a second."""
    service = up(STUBBORN="1")
    service.ready()
    tree = service.tree()
    for _ in range(more):
        service.running.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            service.running.wait(1)
    seconds: float = service.end()[0]
    assert service.gone(tree)
    return seconds


def test_an_impatient_second_signal_is_one_for_the_worker_when_it_takes_it_for_one(up: Start) -> None:
    service = up(BUSY="1")
    service.ready()
    service.running.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        service.running.wait(0.3)
    seconds, _, _ = service.end()
    assert (service.data_dir / "hurried").exists()
    assert seconds < KILL_AFTER_SECONDS


def test_sigterm_while_it_starts_ends_it_too(up: Start, until: Until) -> None:
    service = up()
    until(lambda: any("app.main" in process.cmdline() for process in service.tree()))
    tree = service.tree()
    seconds, out, _ = service.end()
    assert service.running.returncode == 0
    assert seconds < 10
    assert "ready" not in out
    assert service.gone(tree)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux' own")
def test_kill_9_leaves_nothing_running_and_the_next_start_finds_everything(up: Start, until: Until) -> None:
    service = up()
    note = service.ready()
    key = Path(note["api_key_file"]).read_text()
    uploaded = httpx2.post(
        f"{note['url']}/v1/files",
        files={"file": ("data.npz", b"some bytes")},
        data={"purpose": "fine-tune"},
        headers={"Authorization": f"Bearer {key.strip()}"},
        trust_env=False,
    )
    assert uploaded.is_success
    tree = service.tree()
    service.end(signal.SIGKILL)
    until(lambda: service.gone(tree), within=10)

    again = up()
    assert again.ready() != note
    assert Path(note["api_key_file"]).read_text() == key
    assert again.get(f"/v1/files/{uploaded.json()['id']}/content").content == b"some bytes"


def test_an_api_that_does_not_start_is_said_with_its_last_words(up: Start) -> None:
    service = up(THAW_DATABASE_URL="sqlite:////dev/null/thaw.db")
    _, err = service.running.communicate(timeout=60)
    assert service.running.returncode == 1
    assert "api does not start: it ended 3 times. The last lines of" in err
    assert "/dev/null" in err


def test_what_a_killed_one_left_is_ended_and_hints_that_cannot_be_loaded_are_set_aside(
    up: Start, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    hints = data_dir / "broker" / "appendonlydir"
    hints.mkdir(parents=True)
    (hints / "appendonly.aof.manifest").write_text("nonsense\n")
    (data_dir / "run").mkdir()
    (data_dir / "run" / "lock").write_text("12345")  # it did not end cleanly
    command = [sys.executable, "-c", "import time; time.sleep(120)"]
    with subprocess.Popen(command, env={**os.environ, MARK: str(data_dir)}) as left:
        service = up()
        service.ready()
        assert left.poll() is not None
    assert f"ended process {left.pid}, which an earlier service had left" in service.log("up")
    assert list(data_dir.glob("broker.unreadable-*/appendonlydir/*.manifest"))


def test_a_broker_that_is_set_is_used_and_none_is_started(up: Start, until: Until, tmp_path: Path) -> None:
    socket_file = tmp_path / "own.sock"
    command = broker.broker_command(broker.find_broker_binary(), socket_file=socket_file, folder=tmp_path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as own:
        until(lambda: broker.answers(socket_file))
        service = up(THAW_REDIS_URL=broker.broker_url(socket_file))
        service.ready()
        assert len(service.tree()) == 2
        service.end()
        assert broker.answers(socket_file)
        own.terminate()


def test_a_taken_port_is_said_before_anything_is_started(up: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = up("--port", str(taken.getsockname()[1]))
        _, err = service.running.communicate(timeout=30)
    assert service.running.returncode == 1
    assert "Address already in use" in err
    assert not (service.data_dir / "broker").exists()


def test_a_setting_that_makes_no_sense_is_said(up: Start) -> None:
    service = up(THAW_LEASE_SECONDS="soon")
    _, err = service.running.communicate(timeout=30)
    assert service.running.returncode == 1
    assert "lease_seconds" in err
