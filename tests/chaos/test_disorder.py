"""What disturbs does what it says: proxies, disks, links, doubled messages; and the same seed draws the same acts."""

import itertools
import json
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import redis

from app.queue import CeleryDoorbell
from app.settings import Settings
from tests.chaos import acts, disks, disorder, namespaces
from tests.chaos.acts import OFTEN, Action, Exposed
from tests.chaos.disks import Disk
from tests.chaos.messages import Messages
from tests.chaos.namespaces import Namespace
from tests.chaos.proxy import Proxy
from tests.chaos.run import Options, fewer_kills
from tests.conftest import Valkey

EVERYTHING: Exposed = {action: list(acts.WEIGHTS[action]) for action in OFTEN}

# === Acts ===


def _drawn(exposed: Exposed, *, seed: int = 7, count: int = 500) -> list[acts.Act]:
    rng = random.Random(seed)  # noqa: S311 (it is to be repeatable)
    return list(itertools.islice(acts.draw(rng, exposed, pace_seconds=1), count))


def test_a_seed_draws_the_same_acts_again() -> None:
    assert _drawn(EVERYTHING) == _drawn(EVERYTHING)
    assert _drawn(EVERYTHING) != _drawn(EVERYTHING, seed=8)


def test_every_act_is_drawn_and_none_that_cannot_be_done() -> None:
    assert {act.action for act in _drawn(EVERYTHING)} == set(OFTEN)
    nothing: list[Action] = [action for action in OFTEN if action not in {"kill", "fill"}]
    few: Exposed = {**EVERYTHING, **dict.fromkeys(nothing, ()), "kill": ["api"]}
    assert {(act.action, act.target) for act in _drawn(few)} == {("kill", "api"), ("fill", "disk")}


def test_only_processes_that_a_signal_reached_were_hit() -> None:
    gone = psutil.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    with psutil.Popen(["sleep", "60"]) as there:
        assert disorder._signal([gone, there], signal.SIGKILL) == [there.pid]


def test_a_run_that_killed_less_than_it_was_to_says_so(tmp_path: Path) -> None:
    log = tmp_path / "acts.jsonl"
    drawn = [act for act in _drawn(EVERYTHING) if act.action in {"kill", "flush"}][:9]
    log.write_text("".join(json.dumps(asdict(act)) + "\n" for act in drawn))
    kills = sum(act.action == "kill" for act in drawn)
    again, few = Options(tmp_path, kills=200, replay=log), Options(tmp_path, kills=2, replay=log)
    assert fewer_kills(kills, again) == fewer_kills(2, few) == fewer_kills(200, Options(tmp_path, kills=200)) == []
    assert fewer_kills(kills - 1, again) == [f"only {kills - 1} of {kills} kills found somebody"]
    assert fewer_kills(1, few) == ["only 1 of 2 kills found somebody"]
    assert fewer_kills(199, Options(tmp_path, kills=200)) == ["only 199 of 200 kills found somebody"]


# === Proxies ===


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back, and says when it read an end of file."""

    def handle(self) -> None:
        while received := self.request.recv(1000):
            self.request.sendall(received)
        self.request.sendall(b"end")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        proxy = Proxy(("127.0.0.1", server.server_address[1]))
        yield proxy
        proxy.close()
        server.shutdown()


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    assert _echoed(connection, b"hello") == b"hello"
    return connection


def _echoed(connection: socket.socket, sent: bytes) -> bytes:
    connection.sendall(sent)
    return connection.recv(1000)


def test_a_proxy_passes_both_directions_and_their_ends(proxy: Proxy) -> None:
    with _connected(proxy.listen("127.0.0.1")) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b"end"
        assert connection.recv(1000) == b""


def test_cut_connections_are_reset_and_new_ones_work(proxy: Proxy) -> None:
    port = proxy.listen("127.0.0.1")
    with _connected(port) as connection:
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)
    _connected(port).close()
    assert proxy.harmed == 1


def test_meanwhile_new_connections_are_cut_in_the_place_of_their_answer(proxy: Proxy) -> None:
    port = proxy.listen("127.0.0.1")
    with proxy.harming("reset"), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)
    _connected(port).close()


def test_a_connection_that_ends_one_way_goes_on_the_other_way(proxy: Proxy) -> None:
    port = proxy.listen("127.0.0.1")
    with _connected(port) as connection:
        with proxy.harming("server"):
            pass
        assert connection.recv(1000) == b"end"
    with _connected(port) as connection:
        with proxy.harming("client"):
            pass
        assert connection.recv(1000) == b""
        connection.sendall(b"still")


def test_chunks_are_late_while_they_are_delayed(proxy: Proxy) -> None:
    with _connected(proxy.listen("127.0.0.1")) as connection, proxy.delayed(0.2):
        began = time.monotonic()
        assert _echoed(connection, b"there and back") == b"there and back"
        assert time.monotonic() - began >= 0.4


def test_nobody_connects_while_connections_are_refused(proxy: Proxy) -> None:
    port = proxy.listen("127.0.0.1")
    with _connected(port) as connection:
        with proxy.refusing():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=10)
            assert _echoed(connection, b"still") == b"still"
        _connected(port).close()


def test_a_connection_to_a_server_that_is_away_ends() -> None:
    proxy = Proxy(Path("/nowhere"))
    with socket.create_connection(("127.0.0.1", proxy.listen("127.0.0.1")), timeout=10) as connection:
        assert connection.recv(1000) == b""
    proxy.close()


# === Disks ===


def test_a_full_disk_has_no_room_until_it_is_freed_and_what_it_held_stays(tmp_path: Path) -> None:
    if not disks.mountable():
        pytest.skip("mounting needs root on Linux")
    folder = tmp_path / "disk"
    disk = Disk(folder)
    try:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (folder / "file").write_bytes(b"hello")
        disk.free()
        (folder / "file").write_bytes(b"hello")
    finally:
        disk.close()
    assert not folder.is_mount()
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("file", b"hello")]


# === Links ===


def test_nothing_gets_through_a_link_that_is_unplugged() -> None:
    if not namespaces.possible():
        pytest.skip("network namespaces need root on Linux, and iproute2")
    namespace = Namespace(7)
    try:
        with socket.create_server((namespace.host, 0)) as server:

            def connect(*, seconds: float) -> bytes:
                there = f"import socket; socket.create_connection({server.getsockname()!r}, timeout={seconds})"
                command = namespace.inside([sys.executable, "-S", "-c", there])
                return subprocess.run(command, check=False, capture_output=True).stderr

            assert connect(seconds=30) == b""
            with namespace.unplugged():
                assert b"TimeoutError" in connect(seconds=0.5)
            assert connect(seconds=30) == b""
    finally:
        namespace.close()
    listed = subprocess.run(["ip", "link"], check=True, capture_output=True).stdout
    assert b"w7" not in listed


# === Messages ===


def test_messages_come_twice_and_sent_ones_again(shared_valkey: Valkey, tmp_path: Path) -> None:
    def connect(seconds: float = 0.5) -> "redis.Redis":
        return redis.Redis(unix_socket_path=str(shared_valkey.socket), socket_timeout=seconds)

    messages, chance = Messages(connect), random.Random(1)  # noqa: S311 (it is to be repeatable)
    messages.start()
    bell = CeleryDoorbell(Settings(data_dir=tmp_path, redis_url=shared_valkey.url))
    waiting = [f'{{"number": {number}}}'.encode() for number in range(9)]
    deadline = time.monotonic() + 60
    with connect(seconds=60) as broker:
        while messages.seen < 2:  # it may not listen yet
            assert time.monotonic() < deadline, "it does not see what is sent"
            bell.ring("train", f"job-{messages.seen}", queue="cpu")  # which is impatient: one may not be sent
            time.sleep(0.05)
        broker.delete("thaw:cpu")
        broker.rpush("thaw:cpu", *waiting)
        assert messages.shuffle(broker, chance) >= 20
        found = broker.lrange("thaw:cpu", 0, -1)
    assert Counter(each for each in found if each in waiting) == Counter(waiting * 2)
    assert [each for each in found if each in waiting][:9] != waiting
    assert {json.loads(each)["headers"]["task"] for each in found if each not in waiting} == {"thaw.train"}
    messages.stop()
    bell.close()
