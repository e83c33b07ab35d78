"""A whole `thaw up` whose workers are stand-ins: they announce themselves and load no TensorFlow."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

WORKER = """
import os, signal, subprocess, sys, time
from app.domain.ids import new_id
from app.domain.worker import WorkerCapabilities
from app.services import context, workers
from app.settings import Settings

if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if os.environ.get("BUSY"):
    told = []

    def hear(*_):
        told.append(time.monotonic())
        if told[-1] - told[0] >= 2:
            (Settings().data_dir / "hurried").touch()
            sys.exit(0)

    signal.signal(signal.SIGTERM, hear)
services = context.build(Settings())
name = new_id("worker")
queues = sys.argv[sys.argv.index("--queues") + 1].split(",")
while True:
    workers.announce(services, worker=name, capabilities=WorkerCapabilities(queues=queues, devices=["cpu"]))
    time.sleep(5)
"""


@dataclass
class Up:
    """A `thaw up`, in a process of its own."""

    data_dir: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self) -> "Up":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.standalone", "--data-dir", str(self.data_dir), "--port", "0", *self.arguments],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    @property
    def running(self) -> subprocess.Popen[str]:
        assert self.process
        return self.process

    def ready(self) -> dict[str, Any]:
        """What service.json says, once it is this one's."""
        until(lambda: self._note().get("pid") == self.running.pid or self.running.poll() is not None, within=120)
        assert self.running.poll() is None, self.running.communicate()
        return self._note()

    def _note(self) -> dict[str, Any]:
        path = self.data_dir / "run" / "service.json"
        note: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return note

    def tree(self) -> list[psutil.Process]:
        """Everything below it, by name of its program."""
        return psutil.Process(self.running.pid).children(recursive=True)

    def child(self, *words: str) -> psutil.Process | None:
        """The child that has all these words on its command line."""
        for process in psutil.Process(self.running.pid).children():
            with contextlib.suppress(psutil.Error):  # it may end while it is looked at
                if all(word in process.cmdline() for word in words):
                    return process
        return None

    def log(self, name: str) -> str:
        path = self.data_dir / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def gone(self, processes: list[psutil.Process]) -> bool:
        """Whether none of these is left."""
        return not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def get(self, path: str) -> httpx2.Response:
        """Ask its API, with its key."""
        note = self.ready()
        key = Path(note["api_key_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.get(note["url"] + path, headers=headers, trust_env=False, timeout=60)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[float, str, str]:
        """Signal it; seconds until it was gone, and what it had said."""
        started = time.monotonic()
        self.running.send_signal(number)
        out, err = self.running.communicate(timeout=30)
        return time.monotonic() - started, out, err


def until(condition: Callable[[], object], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)


@pytest.fixture(name="until")
def _until() -> Callable[..., None]:
    return until


@contextmanager
def starter(folder: Path) -> Iterator[Callable[..., Up]]:
    """What starts a `thaw up`; whatever is left of it is ended."""
    package = folder / "stand-in" / "worker"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(WORKER)
    started: list[Up] = []

    def start(*arguments: str, **environment: str) -> Up:
        service = Up(folder / "data", [*arguments], {"PYTHONPATH": str(package.parent), **environment})
        started.append(service)
        return service.start()

    yield start
    for service in started:
        if service.running.poll() is None:
            for process in [*service.tree(), psutil.Process(service.running.pid)]:
                process.kill()
            service.running.communicate()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts a `thaw up` on the folder `data` of this test."""
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Callable[..., Up]]]:
    """One that is ready, for all tests that leave it as it was; and what starts another on its folder."""
    with starter(tmp_path_factory.mktemp("running")) as start:
        service = start()
        service.ready()
        yield service, start
