"""The service as processes: started, found by what they are, killed, started again."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

import httpx2
import psutil
import redis

from app.standalone import tether
from app.standalone.broker import find_broker_binary, socket_path
from app.storage.database import Database, upgrade
from tests.chaos.evidence import Evidence
from tests.servers import Postgres, postgres_folder

Target = Literal["api", "worker", "child", "forkserver", "broker", "postgres", "tree"]
TARGETS: tuple[Target, ...] = get_args(Target)

QUICK: Mapping[str, str] = {
    "THAW_LEASE_SECONDS": "6",
    "THAW_HEARTBEAT_SECONDS": "1",
    "THAW_FENCE_SECONDS": "4",
    "THAW_SWEEP_SECONDS": "1",
    "THAW_RING_AGAIN_SECONDS": "2",
    "THAW_MIN_FREE_DISK_BYTES": "0",
}
"""Everything that takes half a minute in real life takes seconds here."""
LEASE_SECONDS = float(QUICK["THAW_LEASE_SECONDS"])

_START_SECONDS = 180.0
_KEEPER_SECONDS = 0.2


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Program:
    """A program that is started again whenever it is gone."""

    target: Target
    launch: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0


@dataclass
class Stack(ABC):
    """A running service. `start` it, `stop` it; in between a thread starts again what does not do so by itself."""

    folder: Path
    """Everything of it lies here."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside `QUICK`."""
    programs: list[Program] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    targets: ClassVar[Sequence[Target]] = ()
    """What there is to disturb."""

    def __post_init__(self) -> None:
        self.api_key = f"thaw_{secrets.token_hex(16)}"
        self._over = threading.Event()
        # The kernel kills what a thread has started when that thread ends, so one thread starts everything.
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    # === Life ===

    def start(self) -> None:
        """Start everything; comes back when all of it answers."""
        self.prepare()
        self._keeper.start()
        self.wait_until_ready()

    @abstractmethod
    def prepare(self) -> None:
        """Decide what is to be started."""

    def stop(self) -> None:
        """Kill everything."""
        self._over.set()
        if self._keeper.ident is not None:
            self._keeper.join(10)
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for program in self.programs:
            if program.process:
                program.process.wait(10)

    def wait_until_ready(self, *, seconds: float = _START_SECONDS) -> None:
        """Until every API says that it is ready, and as many workers as there are have been heard of."""
        deadline = time.monotonic() + seconds
        while not all(self._is_ready(url) for url in self.urls):
            if time.monotonic() > deadline:
                message = f"The service did not become ready within {seconds:.0f} s; its logs are in {self.folder}."
                raise TimeoutError(message)
            time.sleep(0.1)

    def _is_ready(self, url: str) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200
        return False

    def _keep(self) -> None:
        while not self._over.wait(_KEEPER_SECONDS):
            for program in self.programs:
                if program.process is None or program.process.poll() is not None:
                    program.process = program.launch()
                    program.starts += 1

    def spawn(self, name: str, command: Sequence[str], **variables: str) -> "subprocess.Popen[bytes]":
        """A process that ends with this one and prints to `<name>.log`."""
        tied = [sys.executable, tether.__file__, str(os.getpid()), str(int(signal.SIGKILL)), *command]
        environment = {**os.environ, **QUICK, **self.environment, **variables}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(tied, env=environment, stdout=log, stderr=log, cwd=self.folder)

    # === Processes ===

    def family(self) -> list[psutil.Process]:
        """All processes there are."""
        found = []
        for program in self.programs:
            if program.process and program.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    root = psutil.Process(program.process.pid)
                    found += [root, *root.children(recursive=True)]
        return found

    def find(self, target: Target) -> list[psutil.Process]:
        """The processes that this means now, in the order of their ids; each with what is below it, for `tree`."""
        if target == "tree":
            return self.family()
        return sorted((each for each in self.family() if kind_of(each) == target), key=lambda process: process.pid)

    def worker_group(self, worker: psutil.Process) -> list[psutil.Process]:
        """A worker, its forkserver and their children."""
        with contextlib.suppress(psutil.Error):
            return [worker, *worker.children(recursive=True)]
        return []

    # === Its parts ===

    @abstractmethod
    def broker(self) -> "redis.Redis":
        """A connection to the broker."""

    @abstractmethod
    def evidence(self) -> Evidence:
        """What it leaves behind."""

    def logs(self) -> str:
        """All that its programs have printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log")))


def kind_of(process: psutil.Process) -> Target | None:
    """What a process is, by its command line and its parents."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        parent = process.parent()
        if "app.main" in words:
            return "api"
        if "worker" in words and "--queues" in words:
            return "worker"
        name = Path(words[0].split(" ")[0].rstrip(":")).name if words else ""
        if name in {"valkey-server", "redis-server"}:
            return "broker"
        if name == "postgres":
            return "postgres"
        if any("forkserver" in word for word in words) and parent is not None:
            return "forkserver" if kind_of(parent) == "worker" else "child"
    return None


class Embedded(Stack):
    """`thaw up`: SQLite, Valkey on a socket, one API, one worker; it starts again what dies below it."""

    targets: ClassVar = ("api", "worker", "child", "forkserver", "broker", "tree")

    def prepare(self) -> None:
        """One program: `thaw up`."""
        self.data_dir = self.folder / "data"
        port = free_port()
        command = [sys.executable, "-P", "-m", "app.standalone", "--data-dir", str(self.data_dir), "--port", str(port)]
        self.urls.append(f"http://127.0.0.1:{port}")
        self.programs = [Program("tree", lambda: self.spawn("up", command, THAW_API_KEY=self.api_key))]

    def broker(self) -> "redis.Redis":
        """Through its socket."""
        return redis.Redis(unix_socket_path=str(socket_path(self.data_dir / "run")), socket_timeout=5)

    def evidence(self) -> Evidence:
        """SQLite's file and the folder beside it."""
        return Evidence(self.data_dir / "thaw.db", self.data_dir / "artifacts")


def _upgrade(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


class Production(Stack):
    """PostgreSQL, Valkey by URL with a password, two APIs, two workers; each is started again when it is gone.

    The workers share nothing but the artifact store: it is one folder that both data folders link to.
    """

    targets: ClassVar = ("api", "worker", "child", "forkserver", "broker", "postgres")

    def prepare(self) -> None:
        """Servers first."""
        folder = postgres_folder()
        if folder is None:
            message = "PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql."
            raise RuntimeError(message)
        self.postgres = Postgres(folder, survives_kills=True)
        self.postgres.start()
        self._port, self._password = free_port(), secrets.token_hex(16)
        self._shared = {
            "THAW_DATABASE_URL": self.postgres.create_database("thaw"),
            "THAW_REDIS_URL": f"redis://:{self._password}@127.0.0.1:{self._port}/0",
            "THAW_API_KEY": self.api_key,
        }
        self.store = self.folder / "artifacts"
        self.store.mkdir()
        _upgrade(self._shared["THAW_DATABASE_URL"])
        database = Program("postgres", self.postgres.launch, self.postgres._process)
        self.programs = [
            database,
            Program("broker", self._launch_broker),
            *(self._api(number) for number in (1, 2)),
            *(self._worker(number) for number in (1, 2)),
        ]

    def _launch_broker(self) -> "subprocess.Popen[bytes]":
        folder = self.folder / "broker"
        folder.mkdir(exist_ok=True)
        options = {"port": self._port, "bind": "127.0.0.1", "requirepass": self._password, "dir": folder}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return self.spawn("broker", [str(find_broker_binary()), *words, "--appendonly", "yes", "--save", ""])

    def _api(self, number: int) -> Program:
        port = free_port()
        self.urls.append(f"http://127.0.0.1:{port}")
        variables = {**self._shared, **self._data(f"api-{number}"), "THAW_PORT": str(port)}
        command = [sys.executable, "-P", "-m", "app.main"]
        return Program("api", lambda: self.spawn(f"api-{number}", command, **variables))

    def _worker(self, number: int) -> Program:
        variables = {**self._shared, **self._data(f"worker-{number}")}
        command = [sys.executable, "-P", "-m", "worker", "--queues", "cpu,prepare"]
        return Program("worker", lambda: self.spawn(f"worker-{number}", command, **variables))

    def _data(self, name: str) -> dict[str, str]:
        """A data folder of its own."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "artifacts").symlink_to(self.store)
        return {"THAW_DATA_DIR": str(folder)}

    def stop(self) -> None:
        """The database's folder, too."""
        super().stop()
        self.postgres.stop()

    def broker(self) -> "redis.Redis":
        """Through its port."""
        return redis.Redis(host="127.0.0.1", port=self._port, password=self._password, socket_timeout=5)

    def evidence(self) -> Evidence:
        """PostgreSQL, through its socket, and the shared folder."""
        return Evidence(f"host={self.postgres.folder} dbname=thaw user=thaw", self.store)


STACKS: Mapping[str, type[Stack]] = {"embedded": Embedded, "production": Production}
