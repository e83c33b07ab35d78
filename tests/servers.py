"""Real servers for tests."""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are; Debian does not put the server's on PATH."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _end_with_parent() -> None:
    """A test run that is killed leaves no server behind (Linux; elsewhere it does)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


class Postgres:
    """A PostgreSQL server on a Unix socket, in a folder of its own."""

    def __init__(
        self, programs: Path, *, survives_kills: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        """`survives_kills`: what was committed is there again after a SIGKILL of the server.

        `settings` take the place of those that make it fast.
        """
        self._programs = programs
        self._survives_kills = survives_kills
        self._settings = settings or {}
        # The kernel takes no longer paths for sockets than about 100 bytes, and pytest's are long.
        self.folder = Path(tempfile.mkdtemp(prefix="thawpg"))
        self._identity = _unprivileged()
        if self._identity:
            os.chown(self.folder, self._identity["user"], self._identity["group"])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the database folder, and serve it."""
        self._run("initdb", "-U", "thaw", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D", self._data)
        self.launch()
        self.wait()

    def launch(self) -> subprocess.Popen[bytes]:
        """Serve the folder: at first, or again after a kill."""
        options = {"listen_addresses": "", "unix_socket_directories": self.folder, "max_connections": 200}
        # Without `fsync` the machine must not fail; the server may, if it commits before it answers.
        fast = {
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "on" if self._survives_kills else "off",
        }
        settings = [f"--{name}={value}" for name, value in {**options, **fast, **self._settings}.items()]
        command = [self._programs / "postgres", "-D", self._data, *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (it allocates nothing that another thread may hold)
                **self._identity,
            )
        return self._process

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGINT)  # "fast": SIGTERM would wait for clients to leave
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """What serves it now."""
        return self._process

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://thaw@/{database}?host={self.folder}"

    def create_database(self, name: str) -> str:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._identity)

    def wait(self) -> None:
        """Until it answers."""
        engine = create_engine(self.url("postgres"))
        deadline = time.monotonic() + 30
        while True:
            try:
                engine.connect().close()
                break
            except OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
        engine.dispose()


class S3Server:
    """An S3 server (moto's) in a process of its own. It keeps all objects in memory: a kill would lose them."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    def start(self) -> None:
        """Comes back when it answers."""
        command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (it allocates nothing that another thread may hold)
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "moto's server did not start"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True
        return False

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
