"""The process in which a model is trained or a file is checked: one task, then it ends.

    setsid, die with the parent, own folder and log, limits, device  ->  engine  ->  one last message

It holds no credentials and no connection but the pipe to its supervisor. This module is imported in the Celery
process too, so TensorFlow and the engine are imported where they are used.
"""

import contextlib
import faulthandler
import gc
import io
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import forkserver as python_forkserver
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, assert_never

from app.domain.progress import Progress
from worker import endings, lifeline, messages
from worker.engine.foldercache import FolderCache
from worker.engine.reporter import Reporter, TrainingStopped
from worker.messages import Alive, Failed, Outcome, Ready, Registered, Reported, Stopped, Tested, Trained, Validated
from worker.orders import BuildOrder, Order, RegisterOrder, RestoreOrder, SelfTestOrder, TrainOrder, ValidateOrder

Keep = Literal["checkpoint", "weights", "nothing"]
"""What a task that is stopped keeps: a checkpoint to go on from, the weights for other jobs to begin with, nothing."""

LOG = "output.log"
"""What the process printed, in the attempt's folder."""
STOP_SIGNALS: Mapping[Keep, signal.Signals] = {
    "checkpoint": signal.SIGTERM,
    "weights": signal.SIGUSR2,
    "nothing": signal.SIGUSR1,
}
"""What ends the task at its next step, by what is to be kept; SIGTERM others send too."""
RUN = "run"
"""The engine's working folder inside the attempt's: `results`, `canonical`, `checkpoints`."""

ALIVE_SECONDS = 1.0
"""How often a process says that it goes on while it has nothing to report."""

_SELF_TEST_NICENESS = 10
"""A job that comes meanwhile goes first."""

Work = Callable[[Order, Reporter], Outcome]


def main(connection: Connection, order: Order, work: "Work | None" = None) -> None:
    """Do what is ordered, say how it ended, and end. `work` takes the engine's place in tests."""
    _settle(order)
    reporter = PipeReporter(connection)
    reporter.send(Ready())
    reporter.send(_outcome(work or perform, order, reporter))
    connection.close()
    with contextlib.suppress(OSError):  # the log may be on a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    # Not through the interpreter's finalization: after a full disk HDF5 crashes there, and CUDA may hang.
    os._exit(0)


def probe(connection: Connection) -> None:
    """Say which modules a fresh process has, and whether it was forked from a forkserver of ours."""
    connection.send((sorted(sys.modules), _forkserver_pid()))
    connection.close()


class PipeReporter:
    """Passes progress to the supervisor, and the supervisor's signals to the engine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked: set[int] = set()
        self._alive_at = time.monotonic()
        for number in STOP_SIGNALS.values():
            signal.signal(number, self._stop)

    def report(self, progress: Progress) -> None:
        """Send it; waits while the supervisor has too much to read."""
        self.send(Reported(progress=progress))

    def check(self) -> None:
        """Raise `TrainingStopped` once a signal has come. Whoever asks has carried out something since it last did."""
        if self._asked:
            cancelled = STOP_SIGNALS["nothing"] in self._asked
            raise TrainingStopped(keep=not cancelled, over=not cancelled and STOP_SIGNALS["weights"] in self._asked)
        if time.monotonic() - self._alive_at >= ALIVE_SECONDS:
            self.send(Alive())

    def send(self, message: messages.Message) -> None:
        """Send any message. Without a supervisor there is nobody to work for: `TrainingStopped`."""
        line = memoryview(messages.encode(message))
        try:
            while line:
                line = line[os.write(self._connection.fileno(), line) :]
            self._alive_at = time.monotonic()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise TrainingStopped(keep=False) from error

    def _stop(self, number: int, _frame: object) -> None:
        self._asked.add(number)


def _outcome(work: Work, order: Order, reporter: Reporter) -> Outcome:
    try:
        _move_into(order.folder)
        return work(order, reporter)
    except TrainingStopped:
        return Stopped()
    except Exception as error:  # noqa: BLE001 (the edge of the process: every end is told)
        with contextlib.suppress(OSError):  # the log may be on a full disk
            traceback.print_exc()
        return Failed(failure=endings.failure_of(error))


# === Work ===


def perform(order: Order, reporter: Reporter) -> Outcome:
    """Have the engine do the task."""
    match order.task:
        case TrainOrder() as task:
            return _train(task, order.folder, reporter)
        case RegisterOrder() as task:
            return _register(task, order.folder)
        case BuildOrder() as task:
            return _build(task, order.folder)
        case RestoreOrder() as task:
            return _restore(task, order.folder)
        case ValidateOrder() as task:
            return _validate(task, order.folder)
        case SelfTestOrder() as task:
            return _test(task, order.folder)
        case task:
            assert_never(task)


def _train(task: TrainOrder, folder: Path, reporter: Reporter) -> Trained:
    from worker.engine.train import train

    features = FolderCache(task.features, max_bytes=task.features_bytes) if task.features else None
    trained = train(
        task.spec, task.source, task.data, folder / RUN, reporter, features=features, ancestry=task.ancestry
    )
    return Trained(info=trained.info, report=trained.report)


def _register(task: RegisterOrder, folder: Path) -> Registered:
    from worker.engine.sources import register

    canonical = folder / RUN / "canonical"
    return Registered(info=register(task.upload, canonical, options=task.options, max_parameters=task.max_parameters))


def _build(task: BuildOrder, folder: Path) -> Registered:
    from worker.engine.named import register

    info = register(
        task.reference,
        folder / RUN / "canonical",
        options=task.options,
        max_parameters=task.max_parameters,
        max_bytes=task.max_bytes,
    )
    return Registered(info=info)


def _restore(task: RestoreOrder, folder: Path) -> Registered:
    from worker.engine.restore import restore

    info = restore(
        task.weights,
        folder / RUN / "canonical",
        spec=task.spec,
        source=task.source,
        data=task.data,
        origin=task.checkpoint_id,
        options=task.options,
    )
    return Registered(info=info)


def _validate(task: ValidateOrder, folder: Path) -> Validated:
    from worker.engine.data import validate

    canonical = folder / RUN / "canonical"
    info, preview = validate(task.upload, canonical, options=task.options, max_unpacked_bytes=task.max_unpacked_bytes)
    return Validated(info=info, preview=preview)


def _test(task: SelfTestOrder, folder: Path) -> Tested:
    os.nice(_SELF_TEST_NICENESS)
    from worker.engine import runtime, selftest

    place = folder / RUN / "selftest"
    facts, bits = ([], selftest.bits(place)) if task.again else selftest.run(place)
    return Tested(facts=facts, bits=bits, device=runtime.device_name(), versions=runtime.versions())


# === Surroundings ===


def _settle(order: Order) -> None:
    """Leave the parent's world: session, signals, environment."""
    # The collector writes into every object that it visits, and each page of TensorFlow's would be copied for it.
    gc.freeze()
    os.setsid()
    _hold_on_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    _close_inherited()
    _limit(order.memory_bytes)
    os.environ.update(order.environment)


def _hold_on_to_parent() -> None:
    lifeline.die_with_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is the main function of a child process"
    # The parent may have died just before: then the kernel will never tell.
    if os.getppid() != (_forkserver_pid() or parent.pid) or not parent.is_alive():
        os._exit(1)
    lifeline.watch_parent()


def _forkserver_pid() -> int | None:
    module = sys.modules.get("worker.forkserver")
    return module.PID if module else None


def _close_inherited() -> None:
    """Close what multiprocessing hands down.

    Every child of a forkserver gets the write end of the pipe by whose end the forkserver notices that its worker
    is gone; while one child holds it, forkserver and children would outlive a killed worker.
    """
    for holder, name in (
        (python_forkserver._forkserver, "_forkserver_alive_fd"),  # noqa: SLF001 (there is no public way)
        (resource_tracker._resource_tracker, "_fd"),  # noqa: SLF001 (the same)
    ):
        descriptor = getattr(holder, name)
        if descriptor is not None:
            os.close(descriptor)
            setattr(holder, name, None)


def _move_into(folder: Path) -> None:
    """Work, print and put temporary files there."""
    run, temporary = folder / RUN, folder / "tmp"
    for path in (run, temporary):
        path.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a crash loses what is buffered
    faulthandler.enable()
    os.chdir(run)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None  # forget what the forkserver found


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if sys.platform == "linux":
        # When the machine runs out of memory, the kernel shall take this process and not the service.
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
