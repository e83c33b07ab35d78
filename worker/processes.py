"""Starts child processes and holds on to them.

    Celery process ──exec──> forkserver (TensorFlow preloaded) ──fork──> child     50 ms, on CPU
                   └─exec──────────────────────────────────────────────> child     5 to 20 s, for GPUs

The forkserver has imported TensorFlow and run nothing, so it has one thread and may be forked.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing import forkserver as python_forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

import structlog

from app.domain.errors import PlatformError
from worker import child, messages
from worker.lifeline import OWNER_VARIABLE
from worker.messages import Message
from worker.orders import Order

TIE = "worker.forkserver"
"""Ties the forkserver to this process; before everything that takes time."""
ENTRY = "worker.child"
"""What every child runs; imported once rather than in each of them."""
ENGINE = "worker.engine.preload"

_WARM_SECONDS = 180.0
"""Longest wait for a forkserver; importing TensorFlow takes 5 to 20 s, more from a cold disk."""
_READ_BYTES = 1024**2
"""At once: as much as Linux lets a pipe hold."""

_RESTART_SECONDS = 2.0
"""How long starting a process is tried again, at least."""
_TRIES = 3
"""How often, at least: a forkserver that is killed while it preloads is noticed after many seconds."""
_RETRY_SECONDS = 0.1

_log = structlog.get_logger(__name__)

Entry = Callable[[Connection, Order], None]


class ChildProcess:
    """A running child: its messages, its end, and how to bring that about."""

    def __init__(self, process: BaseProcess, connection: Connection, lock: threading.Lock) -> None:
        assert process.pid is not None, "the process was started"
        self.pid: int = process.pid
        self._process = process
        self._connection: Connection | None = connection
        self._inbox = messages.Inbox()
        self._exit_code: int | None = None
        self._lock = lock

    def receive(self, *, timeout: float, read: bool = True) -> list[Message]:
        """What it has said, as soon as there is something, it has ended or `timeout` seconds are over.

        With `read=False` only the end is waited for, and a child that says too much has to wait.
        Raises `PlatformError` for anything that is no message.
        """
        connection = self._connection if read else None
        wait([self._process.sentinel, *([connection] if connection else [])], timeout)
        return self._pending() if read else []

    def _pending(self) -> list[Message]:
        # Never waits for the rest of a message: its sender may be dead, which its exit code tells, or stand still.
        if not self._connection or not self._connection.poll():
            return []
        data = os.read(self._connection.fileno(), _READ_BYTES)
        if not data:
            self._disconnect()
        return self._inbox.take(data)

    def exit_code(self) -> int | None:
        """As in `multiprocessing`: negative for a signal; `None` while it runs."""
        # The forkserver tells it once: then the sentinel is silent again until it closes its end.
        if self._exit_code is None and wait([self._process.sentinel], 0):
            # Starting another process reads the exit codes of all that ended.
            with self._lock:
                self._exit_code = self._process.exitcode
        return self._exit_code

    def ask_to_stop(self, keep: child.Keep) -> None:
        """Have the process end at the next step, and keep that."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, child.STOP_SIGNALS[keep])

    def ask_where(self) -> None:
        """Have the process write into its log where each of its threads is, and end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGABRT)

    def kill(self) -> None:
        """SIGKILL to the process and everything that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            if self.exit_code() is None:  # so young that it has no group of its own, or about to be gone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End whatever is left, and forget it."""
        self.kill()
        wait([self._process.sentinel], 5)
        self._disconnect()
        with self._lock, contextlib.suppress(ValueError):  # still running: it is beyond signals (state D)
            self._process.join(0)
            self._process.close()

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class Starter:
    """Starts processes in a thread that lasts as long as this one: Linux ends them when the thread ends that did it."""

    def __init__(self) -> None:
        self._wanted: SimpleQueue[tuple[Future[BaseProcess], Callable[[], BaseProcess]]] = SimpleQueue()
        threading.Thread(target=self._work, name="starter", daemon=True).start()

    def __call__(self, start: Callable[[], BaseProcess]) -> BaseProcess:
        """What `start` returns or raises there."""
        future: Future[BaseProcess] = Future()
        self._wanted.put((future, start))
        return future.result()

    def _work(self) -> None:
        while True:
            future, start = self._wanted.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001 (it is raised where somebody waits for it)
                future.set_exception(error)


class ProcessNotStartedError(PlatformError):
    """No process, or thread beside it, could be started: too many run, or somebody kills the forkserver."""

    code = "process_not_started"


class Launcher:
    """Starts children. One for each Celery process: Python knows only one forkserver."""

    def __init__(self, *, entry: Entry = child.main, preload: Sequence[str] = (ENGINE,)) -> None:
        """`entry`: what a child runs; `preload`: what the forkserver imports for all of them."""
        self._entry = entry
        self._preload = (TIE, ENTRY, *preload)
        self._lock = threading.Lock()
        self._starter = Starter()

    def warm(self) -> float:
        """Start the forkserver and prove that it has preloaded everything; returns the seconds it took.

        Python ignores a preload that cannot be imported: every child would import TensorFlow by itself and
        nobody would know. Raises `PlatformError`.
        """
        started = time.monotonic()
        multiprocessing.set_forkserver_preload(list(self._preload))
        modules, forkserver_pid = self._probe()
        missing = [name for name in self._preload if name not in modules]
        if missing or forkserver_pid is None:
            message = (
                f"The forkserver did not preload {', '.join(missing) or TIE}. Its output above says why; "
                f"`python -c 'import {ENGINE}'` shows it alone."
            )
            raise PlatformError(message, code="forkserver_failed")
        seconds = time.monotonic() - started
        _log.info("forkserver ready", seconds=round(seconds, 2), pid=forkserver_pid)
        return seconds

    def _probe(self) -> tuple[list[str], int | None]:
        context = multiprocessing.get_context("forkserver")
        receiver, sender = context.Pipe(duplex=False)
        with receiver:
            process = self._start_process(context, child.probe, (sender,))
            sender.close()
            try:
                if not receiver.poll(_WARM_SECONDS):
                    message = f"The forkserver did not answer within {_WARM_SECONDS:.0f} s."
                    raise PlatformError(message, code="forkserver_failed")
                found: tuple[list[str], int | None] = receiver.recv()
            except EOFError as error:
                message = "The forkserver ended while it imported what it was to preload; its output says why."
                raise PlatformError(message, code="forkserver_failed") from error
            with self._lock:
                process.join(5)
        return found

    def start(self, order: Order) -> ChildProcess:
        """A child that carries out the order. Raises `PlatformError` if none can be started."""
        context = multiprocessing.get_context(order.start_method)
        receiver, sender = context.Pipe(duplex=False)
        try:
            process = self._start_process(context, self._entry, (sender, order))
        except BaseException:
            receiver.close()
            raise
        finally:
            sender.close()
        return ChildProcess(process, receiver, self._lock)

    def _start_process(self, context: BaseContext, target: Callable[..., None], args: tuple[Any, ...]) -> BaseProcess:
        """Start it. A forkserver that has died is started again by Python, once the kernel says that it is dead."""
        deadline = time.monotonic() + _RESTART_SECONDS
        with self._lock:
            tries = 0
            while True:
                tries += 1
                try:
                    return self._starter(lambda: _started(context, target, args))
                except (EOFError, OSError) as error:
                    if tries >= _TRIES and time.monotonic() > deadline:
                        message = f"The machine cannot start another process: {error!r}"
                        raise ProcessNotStartedError(message) from error
                    _log.warning("process not started, trying again", error=repr(error))
                    time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """End the forkserver, which ends with this process in any case."""
        forkserver: Any = python_forkserver._forkserver  # noqa: SLF001 (there is no public way; CPython's own tests do it so)
        with self._lock:
            if forkserver._forkserver_pid is not None:  # noqa: SLF001
                # It would end by itself, after TensorFlow's leisurely finalization.
                os.kill(forkserver._forkserver_pid, signal.SIGKILL)  # noqa: SLF001
            forkserver._stop()  # noqa: SLF001


def _started(context: BaseContext, target: Callable[..., None], args: tuple[Any, ...]) -> BaseProcess:
    # A forkserver that has died is started again here, and takes this process's environment.
    os.environ.pop(OWNER_VARIABLE, None)
    if context.get_start_method() == "forkserver":
        os.environ[OWNER_VARIABLE] = str(os.getpid())
    # Daemonic: this process never waits for it at exit.
    process: BaseProcess = context.Process(target=target, args=args, daemon=True)  # type: ignore[attr-defined]  # every context has it
    process.start()
    return process
