"""Fixtures for all tests."""

import os
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


valkey = pytest.fixture(_valkey, name="valkey")
shared_valkey = pytest.fixture(_valkey, name="shared_valkey", scope="module")
