"""Fixtures for the worker: children that need no TensorFlow, a real Valkey server."""

import dataclasses
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetOptions
from app.domain.file import File
from app.domain.job import Job, JobRequest
from app.domain.model import Model, ModelOptions
from app.domain.phases import Phase
from app.domain.spec import ResolvedSpec
from app.services import context, datasets, files, jobs, models
from app.services.context import DEFAULT_PROJECT, Services
from app.settings import Settings
from app.storage.database import Database, upgrade
from app.storage.paging import PageQuery
from worker import attempt, lease, watch
from worker.bundles import BundleCache
from worker.devices import CPU, DevicePool
from worker.leaving import Stopping
from worker.pairing import Pairing
from worker.processes import Launcher
from worker.supervisor import Supervisor

ENTRIES = Path(__file__).parent / "entries"


def eventually(condition: Callable[[], object], *, seconds: float = 30) -> float:
    """Wait until something is true; returns after how many seconds it was. Fails if it does not come true."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not true within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., float]:
    return eventually


class Clock:
    """In the place of the module `time`, where a test lets hours pass."""

    ahead = 0.0
    """By so many seconds."""

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which attempts and their processes are watched; their leases have another."""
    return _clock_of(monkeypatch, attempt, watch)


@pytest.fixture
def clock_of_leases(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which leases are held."""
    return _clock_of(monkeypatch, lease)


def _clock_of(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> Clock:
    clock = Clock()
    for module in modules:
        monkeypatch.setattr(module, "time", clock)
    return clock


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended; a zombie has, and only waits for whoever adopted it."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.fixture(name="gone", scope="session")
def _gone() -> Callable[[list[psutil.Process]], bool]:
    return gone


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no program `mount` here")
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "thaw-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Starts children that run `entries/fake_engine.py`, from a forkserver without TensorFlow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ENTRIES)
        # Children import the parent's main module again where it is a file: pytest, here.
        patch.delattr(sys.modules["__main__"], "__file__", raising=False)
        import fake_engine

        launcher = Launcher(entry=fake_engine.entry, preload=[])
        launcher.warm()
        yield launcher
        launcher.close()


def spec(behaviour: str) -> ResolvedSpec:
    """A spec that makes the fake engine behave so."""
    return ResolvedSpec(schedule=[Phase(name=behaviour, epochs=1)], seed=1)


@pytest.fixture(name="spec")
def _spec() -> Callable[[str], ResolvedSpec]:
    return spec


# === A worker in this process ===


class Bell:
    """A doorbell that nobody hears."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str, str]] = []

    def ring(self, task: str, identifier: str, *, queue: str) -> bool:
        self.rung.append((task, identifier, queue))
        return True

    def reachable(self) -> bool:
        return True


class FragileDatabase(Database):
    """A database that can be cut off."""

    down = False
    refused = 0

    def begin(self) -> AbstractContextManager[Session]:
        self._check()
        return super().begin()

    def read(self) -> AbstractContextManager[Session]:
        self._check()
        return super().read()

    def _check(self) -> None:
        if self.down:
            self.refused += 1
            statement, reason = "SELECT", "the server closed the connection"
            raise OperationalError(statement, {}, Exception(reason))


@dataclasses.dataclass
class Shop:
    """Real services on SQLite with a model and a dataset that are ready, and what tests do with them."""

    services: Services
    database: FragileDatabase
    bell: Bell
    supervisor: Supervisor

    def upload(self, filename: str) -> File:
        with self.services.store.writer(max_bytes=100) as writer:
            writer.write(filename.encode())
            blob = writer.commit()
        return files.create(self.services, DEFAULT_PROJECT, filename=filename, purpose="fine-tune", blob=blob)

    def model(self, behaviour: str = "register") -> Model:
        """A model whose check behaves so."""
        file = self.upload(f"{behaviour}.keras")
        model = models.register(self.services, DEFAULT_PROJECT, file_id=file.id, name=None, options=ModelOptions())
        self.supervisor.register(model.id)
        return models.get(self.services, DEFAULT_PROJECT, model.id)

    def dataset(self, behaviour: str = "validate") -> Dataset:
        """A dataset whose check behaves so."""
        file = self.upload(f"{behaviour}.npz")
        made = datasets.create(self.services, DEFAULT_PROJECT, file_id=file.id, name=None, options=DatasetOptions())
        self.supervisor.validate(made.id)
        return datasets.get(self.services, DEFAULT_PROJECT, made.id)

    def submit(self, behaviour: str) -> str:
        """A queued job that behaves so; returns its id."""
        (model,) = models.list_page(self.services, DEFAULT_PROJECT, PageQuery(limit=1, order="asc")).items
        (dataset,) = datasets.list_page(self.services, DEFAULT_PROJECT, PageQuery(limit=1, order="asc")).items
        request = JobRequest(
            model=model.id, training_file=dataset.id, schedule=[Phase(name=behaviour, epochs=1)], seed=1
        )
        return jobs.submit(self.services, DEFAULT_PROJECT, request).id

    def get(self, job_id: str) -> Job:
        return jobs.get(self.services, DEFAULT_PROJECT, job_id)

    def train(self, behaviour: str) -> Job:
        """Submit and train to the end."""
        job_id = self.submit(behaviour)
        self.supervisor.train(job_id)
        return self.get(job_id)

    def start(self, behaviour: str) -> tuple[str, threading.Thread]:
        """Submit and train in a thread; comes back when it trains."""
        job_id = self.submit(behaviour)
        return job_id, self.resume(job_id)

    def resume(self, job_id: str) -> threading.Thread:
        """Train in a thread; comes back when it trains."""
        thread = threading.Thread(target=self.supervisor.train, args=(job_id,))
        thread.start()
        eventually(lambda: self.get(job_id).status == "running" and (self.get(job_id).stage or self.get(job_id).phase))
        return thread


def quick_settings(folder: Path, **changed: object) -> Settings:
    """Leases of seconds, long enough for a machine that stalls for some of them."""
    quick: dict[str, object] = {
        "lease_seconds": 9.0,
        "heartbeat_seconds": 0.3,
        "fence_seconds": 8.0,
        "sweep_seconds": 0.3,
        "ring_again_seconds": 1.0,
        "min_free_disk_bytes": 0,
    }
    return Settings(data_dir=folder, **{**quick, **changed})


def shop_of(settings: Settings, launcher: Launcher) -> Shop:
    database, bell = FragileDatabase(settings.resolved_database_url()), Bell()
    upgrade(database)
    services = dataclasses.replace(context.build(settings), db=database, doorbell=bell)
    supervisor = Supervisor(
        services=services,
        worker="worker-test",
        launcher=launcher,
        cache=BundleCache(settings.cache_dir(), services.store, max_bytes=settings.cache_bytes),
        devices=DevicePool([CPU] * 4, lock_dir=settings.run_dir()),
        stopping=Stopping(),
        pairing=Pairing(services),
    )
    return Shop(services, database, bell, supervisor)


@pytest.fixture(scope="module")
def stock(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a model and a dataset that are ready."""
    folder = tmp_path_factory.mktemp("stock") / "data"
    shop = shop_of(quick_settings(folder), launcher)
    assert (shop.model().status, shop.dataset().status) == ("ready", "ready")
    shop.database.close()
    return folder


@pytest.fixture(scope="module")
def open_shop(
    launcher: Launcher, stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Shop]]:
    """Opens shops, each on a data folder of its own (in `folder`), with other settings than usual."""
    opened: list[Shop] = []

    def open_shop(folder: Path | None = None, **changed: object) -> Shop:
        data = (folder or tmp_path_factory.mktemp("shop")) / "data"
        shutil.copytree(stock, data)
        opened.append(shop_of(quick_settings(data, **changed), launcher))
        return opened[-1]

    yield open_shop
    for shop in opened:
        shop.supervisor.stopping.set()
        shop.database.close()


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    return open_shop()
