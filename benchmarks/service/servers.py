"""The processes that are measured: Thaw's API, the bare application, and what Thaw's needs (a broker, PostgreSQL)."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from connection import Connection

from app.standalone.broker import answers, broker_command, broker_url, find_broker_binary
from tests.servers import Postgres, postgres_folder

KEY = "thaw_benchmark"
START_SECONDS = 60.0
_PORT = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Server:
    """A process that serves HTTP on a port of this machine."""

    port: int
    process: psutil.Process

    def connect(self) -> Connection:
        return Connection(self.port, key=KEY)

    @property
    def resident_bytes(self) -> int:
        """Memory that it has now; what the system caches of its files does not count."""
        return int(self.process.memory_info().rss)

    @property
    def peak_bytes(self) -> int:
        """The most that it has had since `forget_peak` (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def forget_peak(self) -> None:
        """Start to look for the peak anew (Linux)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def processor_seconds(self) -> float:
        """What it has used so far, of all cores."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@contextlib.contextmanager
def api(settings: Mapping[str, str], log: Path) -> Iterator[Server]:
    """An API process with these settings, until the block ends."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THAW_")}
    with _serving([sys.executable, "-m", "app.main"], {**kept, **settings, "THAW_PORT": "0"}, log) as server:
        yield server


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Server]:
    """The bare application, until the block ends."""
    program = Path(__file__).with_name("bare.py")
    with _serving([sys.executable, str(program), str(folder)], os.environ, folder / "bare.log") as server:
        yield server


@contextlib.contextmanager
def _serving(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Server]:
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
    assert process.stdout is not None
    try:
        found = _PORT.search(process.stdout.readline())
        if found is None:
            sys.exit(f"{' '.join(command)} did not start:\n{log.read_text()}")
        server = Server(int(found[1]), psutil.Process(process.pid))
        _wait_until_it_accepts(server)
        yield server
    finally:
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_until_it_accepts(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.connect().close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker, until the block ends; its URL. Hints pile up in it: nobody serves its queues."""
    folder.mkdir()
    socket_file = folder / "s"
    command = broker_command(find_broker_binary(), socket_file=socket_file, folder=folder)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(socket_file):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the broker did not start")
            time.sleep(0.02)
        yield broker_url(socket_file)
    finally:
        process.terminate()
        process.wait(timeout=30)


AS_PEOPLE_RUN_IT = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
}
"""PostgreSQL answers a commit when it is on the disk."""


@contextlib.contextmanager
def postgresql() -> Iterator[Postgres]:
    """A real server on a Unix socket, until the block ends."""
    programs = postgres_folder()
    if programs is None:
        sys.exit("PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql.")
    server = Postgres(programs, settings=AS_PEOPLE_RUN_IT)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def raise_limit_of_open_files(needed: int) -> None:
    """A thousand streams are a thousand sockets, here and in the server, which inherits the limit."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            sys.exit(f"This needs {needed:,} open files; `ulimit -Hn` allows {hard:,}.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
