"""Fixtures for all tests."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from app.standalone.broker import answers, broker_command, broker_url, find_broker_binary

# No test measures time.
hypothesis.settings.register_profile("thaw", deadline=None)
hypothesis.settings.load_profile("thaw")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, a file's tests stay together, as they share what it sets up, and services never run side by side."""
    for item in items:
        group = "services" if item.get_closest_marker("service") else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data for tests; skips the test where there is none."""
    folder = Path(os.environ.get("THAW_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real test data is not at {folder} (set THAW_TEST_DATA)")
    return folder


class Valkey:
    """A real Valkey server on a Unix socket, to be killed and started again by tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.url = broker_url(self.socket)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = broker_command(find_broker_binary(), socket_file=self.socket, folder=self.folder)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not answers(self.socket):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def command(self, *words: str) -> bytes:
        """The server's answer, as it stands on the wire."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536)


def _valkey() -> Iterator[Valkey]:
    # The kernel takes no longer paths for sockets than about 100 bytes, and pytest's are long.
    folder = Path(tempfile.mkdtemp(prefix="thaw"))
    server = Valkey(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


class Bucket:
    """A bucket of a real S3 server (moto's), looked at and damaged by another client than Thaw's."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.endpoint = endpoint
        self.name = f"thaw-{secrets.token_hex(6)}"
        self.settings = {
            "artifacts_url": f"s3://{self.name}/some/prefix",
            "s3_endpoint": endpoint,
            "s3_access_key": "key-of-thaw",
            "s3_secret_key": "hunter2-of-the-store",
        }
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="another",
            aws_secret_access_key="another",
        )
        self._client.create_bucket(Bucket=self.name)

    def keys(self) -> list[str]:
        """All objects, without the prefix."""
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [each["Key"].removeprefix("some/prefix/") for each in found]

    def uploads(self) -> list[str]:
        """Uploads that were begun and neither completed nor aborted."""
        return [each["Key"] for each in self._client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=f"some/prefix/{key}", Body=content)

    def delete(self) -> None:
        """The bucket, with all that is in it."""
        for key in self.keys():
            self._client.delete_object(Bucket=self.name, Key=f"some/prefix/{key}")
        self._client.delete_bucket(Bucket=self.name)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Where a real S3 server answers; it keeps everything in this process's memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    return Bucket(s3_endpoint)


valkey = pytest.fixture(_valkey, name="valkey")
shared_valkey = pytest.fixture(_valkey, name="shared_valkey", scope="module")
