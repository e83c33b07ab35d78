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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx2
import psutil
import redis

from app.standalone import tether
from app.standalone.broker import socket_path
from tests.chaos import disks
from tests.chaos.acts import NETWORK, WEIGHTS, Exposed, Target
from tests.chaos.disks import Disk
from tests.chaos.evidence import Evidence, Folder
from tests.chaos.namespaces import Namespace
from tests.chaos.proxy import Proxy
from tests.chaos.quick import QUICK

_START_SECONDS = 600.0
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
    proxies: dict[Target, Proxy] = field(default_factory=dict)
    """Between the services and their servers."""
    disks: list[Disk] = field(default_factory=list)
    links: list[Namespace] = field(default_factory=list)
    targets: ClassVar[Sequence[Target]] = ()
    """What can be killed."""

    def __post_init__(self) -> None:
        self.api_key = f"thaw_{secrets.token_hex(16)}"
        self.resources = ExitStack()
        """What is to be closed, in reverse order, once all processes are killed."""
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
        self.resources.close()

    def wait_until_ready(self, *, seconds: float = _START_SECONDS) -> None:
        """Until every API says that all its parts answer, the broker too, which a ready one can do without."""
        deadline = time.monotonic() + seconds
        while not all(self._is_ready(url) for url in self.urls):
            if time.monotonic() > deadline:
                message = f"The service did not become ready within {seconds:.0f} s; its logs are in {self.folder}."
                raise TimeoutError(message)
            time.sleep(0.1)

    def _is_ready(self, url: str) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            answer = httpx2.get(f"{url}/readyz", trust_env=False, timeout=5)
            return answer.status_code == 200 and all(part["ok"] for part in answer.json()["parts"])
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
        """All processes that may be killed."""
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

    def exposed(self) -> Exposed:
        """What can be done to what, once it is started."""
        return {
            "kill": self.targets,
            "stop": [target for target in WEIGHTS["stop"] if target in self.targets],
            "flush": ["broker"],
            "shuffle": ["broker"],
            **{action: list(self.proxies) for action in NETWORK},
            "fill": ["disk"] if self.disks else [],
            "unplug": ["link"] if self.links else [],
        }

    def own_disk(self, folder: Path) -> None:
        """Make the folder: on a disk of its own that can be full, if this process may make one."""
        if not disks.mountable():
            folder.mkdir()
            return
        disk = Disk(folder)
        self.resources.callback(disk.close)
        self.disks.append(disk)

    @abstractmethod
    def broker(self) -> "redis.Redis":
        """A connection to the broker, past every proxy."""

    @abstractmethod
    def evidence(self) -> Evidence:
        """What it leaves behind."""

    def logs(self) -> str:
        """All that its programs have printed, also into logs that were rotated since."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log*")))


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
    """`thaw up`: SQLite, Valkey on a socket, one API, one worker; it starts again what dies below it.

    As root the whole data folder is a disk that can be full: then SQLite, the broker and the logs have no room either.
    """

    targets: ClassVar = ("api", "worker", "child", "forkserver", "broker", "tree")

    def prepare(self) -> None:
        """One program: `thaw up`."""
        self.data_dir = self.folder / "data"
        self.own_disk(self.data_dir)
        port = free_port()
        command = [sys.executable, "-P", "-m", "app.standalone", "--data-dir", str(self.data_dir), "--port", str(port)]
        self.urls.append(f"http://127.0.0.1:{port}")
        self.programs = [Program("tree", lambda: self.spawn("up", command, THAW_API_KEY=self.api_key))]

    def broker(self) -> "redis.Redis":
        """Through its socket."""
        return redis.Redis(unix_socket_path=str(socket_path(self.data_dir / "run")), socket_timeout=5)

    def evidence(self) -> Evidence:
        """SQLite's file and the folder beside it."""
        return Evidence(self.data_dir / "thaw.db", Folder(self.data_dir / "artifacts"))
