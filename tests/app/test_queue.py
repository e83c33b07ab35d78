"""The doorbell rings a real Valkey server, and never keeps anybody waiting."""

import contextlib
import datetime as dt
import ipaddress
import json
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import queue
from app.queue import MAX_WAITING_HINTS, QUEUES, TASKS, CeleryDoorbell, broker_url, working_celery
from app.settings import Settings
from app.standalone.broker import find_broker_binary

pytestmark = pytest.mark.service


@pytest.fixture
def settings(valkey: Any, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=valkey.url)


def _rings(doorbell: CeleryDoorbell, *, tries: int = 5) -> bool:
    """Whether a ring is heard: a busy machine may be late for an impatient one, not always."""
    return any(doorbell.ring("train", "ftjob-1", queue="cpu") for _ in range(tries))


def test_a_hint_carries_an_id_and_nothing_else(settings: Settings) -> None:
    assert _rings(CeleryDoorbell(settings))
    with working_celery(settings).connection_for_read() as connection:
        message = connection.SimpleQueue("cpu").get(timeout=30)
    assert message.headers["task"] == TASKS["train"] == "thaw.train"
    assert json.loads(message.body)[:2] == [["ftjob-1"], {}]


def test_a_ring_hangs_on_nothing_that_the_server_does(settings: Settings, valkey: Any) -> None:
    doorbell = CeleryDoorbell(settings)
    assert (queue._SEND_SECONDS, queue._REACH_SECONDS) == (0.05, 1.0)

    def ring(*, heard: bool) -> None:
        started = time.monotonic()
        tries = 5 if heard else 1
        assert _rings(doorbell, tries=tries) is heard
        assert any(doorbell.reachable() for _ in range(tries)) is heard
        assert time.monotonic() - started < 30, "calls that are impatient, and one that is patient"

    ring(heard=True)
    valkey.signal(signal.SIGSTOP)
    ring(heard=False)
    valkey.signal(signal.SIGCONT)
    ring(heard=True)
    valkey.kill()
    ring(heard=False)
    valkey.start()
    ring(heard=True)


def test_a_broker_that_is_slow_is_not_away(settings: Settings, valkey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_REACH_SECONDS", 30.0)  # of 1 s: this machine may be slow itself
    doorbell = CeleryDoorbell(settings)
    assert doorbell.reachable()
    valkey.signal(signal.SIGSTOP)
    going_on = threading.Timer(0.4, valkey.signal, [signal.SIGCONT])
    going_on.start()
    try:
        assert doorbell.reachable()
    finally:
        going_on.join()


def test_nothing_listens_is_no_error(tmp_path: Path) -> None:
    assert not CeleryDoorbell(Settings(data_dir=tmp_path)).ring("train", "ftjob-1", queue="cpu")


def test_a_backlog_does_not_fill_the_broker(settings: Settings, valkey: Any) -> None:
    doorbell = CeleryDoorbell(settings)
    heard = [doorbell.ring("train", f"ftjob-{number}", queue="cpu") for number in range(MAX_WAITING_HINTS + 50)]
    assert sum(heard) >= MAX_WAITING_HINTS
    assert valkey.command("LLEN", "thaw:cpu") == f":{MAX_WAITING_HINTS}\r\n".encode()
    assert doorbell.ring("train", "ftjob-1", queue="gpu")
    assert valkey.command("LLEN", "thaw:gpu") == b":1\r\n"


def test_without_a_url_the_embedded_server_is_meant(tmp_path: Path) -> None:
    assert broker_url(Settings(data_dir=tmp_path)) == f"redis+socket://{tmp_path}/run/broker.sock"


def test_nothing_of_celery_is_used_that_could_run_a_job_twice_or_lose_it(settings: Settings) -> None:
    conf = working_celery(settings).conf
    assert conf.task_acks_late is False
    assert conf.task_reject_on_worker_lost is False
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]
    assert conf.worker_enable_remote_control is False
    assert [queue.name for queue in conf.task_queues] == list(QUEUES)


def test_sending_needs_no_tensorflow() -> None:
    program = "import sys, app.queue; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


# === Servers on other machines: a password, TLS ===

PASSWORD, IN_URL = "p@ss/w:rd", "p%40ss%2Fw%3Ard"


def test_a_password_opens_the_server_and_nothing_else_does(tmp_path: Path) -> None:
    with _server(folder=tmp_path) as port:
        assert _carries(tmp_path, f"redis://:{IN_URL}@127.0.0.1:{port}/3")
        assert _carries(tmp_path, f"redis://default:{IN_URL}@127.0.0.1:{port}")
        for wrong in ("", ":other@", f"somebody:{IN_URL}@"):
            assert not CeleryDoorbell(
                Settings(data_dir=tmp_path, redis_url=f"redis://{wrong}127.0.0.1:{port}")
            ).reachable()


def test_tls_is_checked_against_the_authority_and_the_name(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, ipaddress.ip_address("127.0.0.1"))
    with _server(folder=tmp_path) as plain, _encrypted(plain, certificate) as port:
        trusting = f"?ssl_ca_certs={certificate}"
        assert _carries(tmp_path, f"rediss://:{IN_URL}@127.0.0.1:{port}/0{trusting}")
        # Another database each: Celery's connections are pooled by URL, whatever is trusted.
        for wrong in (f"127.0.0.1:{port}/1", f"localhost:{port}/2{trusting}"):
            url = f"rediss://:{IN_URL}@{wrong}"
            assert not CeleryDoorbell(Settings(data_dir=tmp_path, redis_url=url)).reachable()


def _carries(folder: Path, url: str) -> bool:
    """Whether a hint gets from a doorbell to a worker's connection."""
    settings = Settings(data_dir=folder, redis_url=url)
    assert _rings(CeleryDoorbell(settings))
    with working_celery(settings).connection_for_read() as connection:
        return bool(json.loads(connection.SimpleQueue("cpu").get(timeout=30).body)[0] == ["ftjob-1"])


@contextlib.contextmanager
def _server(*, folder: Path) -> Iterator[int]:
    """A server with a password, on a TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--requirepass",
        PASSWORD,
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    process = subprocess.Popen([find_broker_binary(), *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not _listens(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _encrypted(plain: int, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and passes everything on to `plain`: the wheel's server is built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", plain)) as server,
                context.wrap_socket(self.request, server_side=True) as client,
            ):
                back = threading.Thread(target=_pass_on, args=(server, client))
                back.start()
                _pass_on(client, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as forwarder:
        forwarder.daemon_threads = True
        thread = threading.Thread(target=forwarder.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield forwarder.server_address[1]
        forwarder.shutdown()
        thread.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _certificate(folder: Path, address: ipaddress.IPv4Address) -> Path:
    """One that signs itself, for one address; its key lies beside it in `key.pem`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "certificate.pem"
