"""One worker process, from its settings to its exit.

read settings -> connect -> empty the environment -> sweeper -> forkserver -> self-test -> Celery … signal … ->
children end, claims go back to the queue -> exit, within 8 s
… another signal, 2 s later or more … children are killed, claims go back -> exit, within 2.5 s
… something hangs … another thread gives the claims back -> exit, in the same time
… SIGUSR1 … what runs ends -> exit, whenever that is
"""

import signal
import socket
import sys
import threading
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import OperationalError

from app.domain.errors import PlatformError
from app.domain.ids import new_id
from app.domain.worker import WorkerCapabilities
from app.queue import QueueName, TaskName
from app.services import context
from app.services.context import Services
from app.settings import Settings
from app.storage.database import ensure_schema, said
from worker import celery_app, devices, environment, folders, gpus, room, tasks
from worker.bundles import BundleCache
from worker.devices import Device, DevicePool
from worker.fitness import Fitness
from worker.gpus import Gpu
from worker.lanes import Lane
from worker.lease import UNREACHABLE
from worker.leaving import Stopping, exit_in_time
from worker.looking import Looking
from worker.pairing import Pairing
from worker.processes import Launcher
from worker.selftesting import SelfTesting
from worker.supervisor import Supervisor
from worker.sweeper import Sweeper, version

STOP_SECONDS = 7.5
"""After this the process is gone, whatever hangs; its children die with it."""
HURRY_SECONDS = 2.3
"""The same after a second signal."""
AGAIN_SECONDS = 2.0
"""A signal this soon after the first is the same stop: systemd signals the worker itself, and then `thaw up` does."""
_SELF_TEST_ENDS_SECONDS = 2.0
"""So that its folder is gone, too."""
PATIENCE_SECONDS = 180.0
"""How long a store that does not answer is tried again, before the job is given back."""
PREPARATIONS = 1
"""Files checked at once."""

_log = structlog.get_logger(__name__)


def run(settings: Settings, queues: Sequence[QueueName], *, launcher: Launcher | None = None) -> int:
    """Work until a signal says stop; returns the exit code. `launcher` is another one in tests.

    Raises `MisconfiguredError` where database or store cannot be used or refuse Thaw, `ServiceUnavailableError` for a
    store that does not answer: a worker that can neither fetch nor upload must take no job away from others.
    """
    # Before the environment is emptied: store and database may have their credentials there.
    services = context.build(settings, patience_seconds=PATIENCE_SECONDS)
    removed = environment.scrub()
    for number in (signal.SIGTERM, signal.SIGINT, celery_app.DRAIN_SIGNAL):
        signal.signal(number, _leave)  # until Celery takes over
    found = gpus.find() if "gpu" in queues else []
    queues = _served(queues, found)
    lent = devices.choose(found, slots=settings.worker_slots)
    _check(services)
    launcher = launcher or Launcher()
    stale = folders.remove_stale(settings.work_dir())
    name = new_id("worker")
    _log.info(
        "worker starts",
        worker=name,
        host=socket.gethostname(),
        queues=list(queues),
        devices=[device.name for device in lent],
        variables_removed=len(removed),
        stale_folders_removed=len(stale),
    )
    try:
        return _serve(services, launcher, name=name, queues=queues, lent=lent)
    finally:
        launcher.close()
        services.db.close()


def _check(services: Services) -> None:
    services.store.probe()
    try:
        ensure_schema(services.db)
    except OperationalError as error:
        # Jobs come from it, so it is waited for; what it says then is checked by every statement.
        _log.warning("database not reached, its schema is not checked", error=said(error))


def _serve(
    services: Services, launcher: Launcher, *, name: str, queues: Sequence[QueueName], lent: list[Device]
) -> int:
    settings = services.settings
    stopping, hurrying, draining, warm = Stopping(), *(threading.Event() for _ in range(3))
    fitness, pairing = Fitness(), Pairing(services)
    supervisor = Supervisor(
        services=services,
        worker=name,
        launcher=launcher,
        cache=BundleCache(settings.cache_dir(), services.store, max_bytes=settings.cache_bytes),
        devices=DevicePool(lent, lock_dir=settings.run_dir()),
        stopping=stopping,
        pairing=pairing,
        hurrying=hurrying,
        draining=draining,
        fitness=fitness,
    )
    lanes = _lanes(lent)
    celery = celery_app.create(settings)
    tasks.define(celery, supervisor, lanes=lanes)
    capabilities = _capabilities(queues, lent)

    def announced() -> WorkerCapabilities:
        fit = fitness.announced(capabilities)
        if draining.is_set() or not warm.is_set():
            return fit.model_copy(update={"queues": [], "draining": draining.is_set()})
        return room.announced(fit, services, pairing) if _trains(queues) else fit

    looking = Looking(supervisor, lanes["train"])
    sweeper = Sweeper(services, worker=name, capabilities=announced, look=looking.look)
    self_testing = SelfTesting(settings, launcher, lent[0], fitness, worker=name, stopping=stopping)

    def stop() -> None:
        if stopping.seconds >= AGAIN_SECONDS:  # somebody asks again
            hurrying.set()
            exit_in_time(HURRY_SECONDS, supervisor.abandon)
            return
        stopping.set()
        for lane in lanes.values():
            lane.clear()
        exit_in_time(STOP_SECONDS, supervisor.abandon)

    def drain() -> None:
        draining.set()
        for lane in lanes.values():
            lane.clear()

    sweeper.start()
    try:
        # Meanwhile the sweeper takes back what a worker had that died: loading TensorFlow may take a minute.
        launcher.warm()
        warm.set()
        _announce(sweeper)
        if _trains(queues):
            self_testing.start()
        exit_code = celery_app.serve(
            celery, name=name, queues=queues, concurrency=_threads(queues, lent), on_stop=stop, on_drain=drain
        )
        draining.set()  # however Celery came to its end: nothing is begun that nobody waits for
        looking.wait()
        return exit_code
    finally:
        stopping.set()
        sweeper.end()
        if self_testing.ident is not None:
            self_testing.join(_SELF_TEST_ENDS_SECONDS)


def _announce(sweeper: Sweeper) -> None:
    try:
        sweeper.announce()
    except UNREACHABLE as error:
        _log.warning("database not reached, announced with the next sweep", error=repr(error))


def _leave(*_: object) -> None:
    sys.exit(0)


def _served(queues: Sequence[QueueName], found: Sequence[Gpu]) -> Sequence[QueueName]:
    """Without a GPU a worker must not take what waits for one. Raises `PlatformError` if nothing is left."""
    if found or "gpu" not in queues:
        return queues
    others = [queue for queue in queues if queue != "gpu"]
    if not others:
        message = (
            "There is no NVIDIA GPU that this worker may use: its driver is missing, or CUDA_VISIBLE_DEVICES hides "
            "all. Serve the queue `cpu` instead."
        )
        raise PlatformError(message, code="no_gpu")
    _log.warning("no GPU found, the queue gpu is left to others", queues=others)
    return others


def _trains(queues: Sequence[QueueName]) -> bool:
    return any(queue != "prepare" for queue in queues)


def _threads(queues: Sequence[QueueName], lent: list[Device]) -> int:
    return (len(lent) if _trains(queues) else 0) + (PREPARATIONS if "prepare" in queues else 0)


def _lanes(lent: list[Device]) -> dict[TaskName, Lane]:
    training, preparation = Lane(len(lent)), Lane(PREPARATIONS)
    return {"train": training, "register": preparation, "validate": preparation}


def _capabilities(queues: Sequence[QueueName], lent: list[Device]) -> WorkerCapabilities:
    return WorkerCapabilities(
        queues=list(queues),
        devices=[device.name for device in lent] if _trains(queues) else ["cpu"],
        keras=version("keras"),
        tensorflow=version("tensorflow"),
    )
