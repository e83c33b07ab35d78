"""One claim, from now to its last write.

    claimed -> fetch inputs -> start the process -> watch, relay -> upload -> one write that ends it
             '------------------ the lease is renewed all the while ------------------'

However it ends, exactly one of these is written: succeeded, failed with its reason, cancelled, paused, or back to the
queue, because this worker stops, the artifact store is away, or the next attempt may get through
(`app.services.failing`); and nothing at all once the lease is lost.

A worker that stops has a few seconds. What it fetches is given up at once, what it uploads is given the seconds that
a process would have had to end; and what hangs is given back by another thread (`abandon`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import structlog

from app.domain.errors import (
    CapacityError,
    Failure,
    LeaseLostError,
    MisconfiguredError,
    ServiceUnavailableError,
    StorageFullError,
)
from app.queue import TaskName
from app.services import claims
from app.services.context import Services
from worker import endings, folders, memory, room
from worker.child import LOG, RUN
from worker.duties import Duty
from worker.endings import Exit
from worker.lease import JobCancelled, Lease
from worker.leaving import Stopping
from worker.messages import Failed, Outcome, Stopped
from worker.orders import Order
from worker.processes import ChildProcess, Launcher, ProcessNotStartedError
from worker.relay import Relay
from worker.watch import GRACE_SECONDS, Ending, Limits, Reason, Watch

_SIGNALS_ARRIVE_SECONDS = 0.5
"""A service manager may end our children in the same moment in which it tells us to stop."""

_UPLOAD_SECONDS: Mapping[Reason | None, float] = {"stop": 2.0, "pause": 600.0, "memory": 600.0, "stall": 600.0}
"""How long the last checkpoint may take to the store, where somebody will go on from it: a worker that stops has no
longer, and then an older checkpoint must do."""
_UPLOAD_SECONDS_AFTER_A_FAULT = 600.0
"""Of a process that ended by itself before it was done."""

_UPLOADS_STOP_SECONDS = GRACE_SECONDS["stop"] + 2.0
"""So long after this worker was asked to stop, what is not in the store yet is given up."""

_IDS: Mapping[TaskName, str] = {"train": "job_id", "register": "model_id", "validate": "dataset_id"}
"""What the id of a claim is called in the log."""

_log = structlog.get_logger(__name__)


class Interrupted(Exception):  # noqa: N818 (named for what happens)
    """This worker is asked to stop, or the job to pause: it is given back, to go on from its newest checkpoint."""


class OutOfTime(Exception):  # noqa: N818 (named for what happened)
    """The job may run no longer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ProcessKilled(Exception):  # noqa: N818 (named for what happened)
    """Somebody killed the process that checks a file: the attempt is lost, as if its worker had died."""


class Attempt:
    """One claim, from now to its last write."""

    def __init__(
        self,
        services: Services,
        duty: Duty,
        *,
        worker: str,
        launcher: Launcher,
        stopping: Stopping,
        hurrying: threading.Event,
    ) -> None:
        self._services = services
        self._duty = duty
        self._limits = duty.limits
        self._launcher = launcher
        self._stopping = stopping
        self._hurrying = hurrying
        self._began_at = time.monotonic()
        """After the claim, within which the time that is left was counted."""
        self._child: ChildProcess | None = None
        named = {_IDS[duty.task]: duty.claim.identifier}
        self._about = {**named, "attempt": duty.claim.attempt, "task": duty.task, "worker": worker}
        # The lease has a thread of its own, which does not get this one's context.
        self._log = _log.bind(**self._about)
        self._seconds: dict[str, float] = {}
        self._lease = Lease(self._services, duty.claim, log=self._log)

    def run(self) -> str:
        """See it through; returns how it ended. What is logged meanwhile in this thread says what it is about."""
        with structlog.contextvars.bound_contextvars(**self._about), self._lease:
            try:
                ending = self._finish()
            except LeaseLostError:
                ending = "lease lost"
        self._log.info("attempt ended", ending=ending, **self._seconds)
        return ending

    def _finish(self) -> str:
        """Work, and write down how it ended; returns it in a word."""
        try:
            return self._work()
        except LeaseLostError:
            raise
        except JobCancelled:
            self._lease.persist(self._duty.cancel)
            return "cancelled"
        except Interrupted:
            return self._give_back("released", charge_attempt=False)
        except (ProcessKilled, ProcessNotStartedError) as error:
            return self._without_process(error)
        except ServiceUnavailableError as error:
            return self._without_store(error)
        except Exception as error:  # noqa: BLE001 (the edge: a supervisor's own error is the platform's, and logged)
            self._log.exception("supervisor failed")
            return self._broken(error)

    def _without_process(self, error: ProcessKilled | ProcessNotStartedError) -> str:
        self._log.warning("process lost", reason=str(error))
        return self._lose(error.failure() if isinstance(error, ProcessNotStartedError) else None)

    def _broken(self, error: Exception) -> str:
        """A disk that cannot be read, no more files or threads, …: the machine's fault, not the job's."""
        failure = endings.failure_of(error)
        if isinstance(error, OSError | RuntimeError) and failure.code == "internal_error":
            return self._lose(failure.model_copy(update={"code": "worker_failed"}))
        return self._fail(failure)

    def _lose(self, failure: Failure | None) -> str:
        """The attempt is lost, as if its worker had died; a job is told why. One that stops starts no process."""
        if self._stopping.is_set():
            return self._give_back("released", charge_attempt=False)
        if self._duty.task == "train" and failure is not None:
            return self._fail(failure)
        return self._give_back("process lost", charge_attempt=True)

    def _without_store(self, error: ServiceUnavailableError) -> str:
        if isinstance(error, MisconfiguredError):
            return self._fail(endings.failure_of(error))
        # Nothing is wrong with the job, and the store was asked for minutes.
        self._log.warning("artifact store not reached, given back", reason=error.message)
        return self._give_back("released", charge_attempt=False)

    def _work(self) -> str:
        """What the attempt is for; returns how it ended.

        Which is written when its folder is gone: a database cannot write to a disk that the folder has filled.
        """
        try:
            result = self._carry_out()
        except OutOfTime as over:
            result = over.failure
        if isinstance(result, Failure):
            return self._fail(result)
        self._lease.persist(result)
        return "succeeded"

    def _carry_out(self) -> Callable[[], object] | Failure:
        """Everything but the last write; returns what is to be written."""
        name = f"{self._duty.claim.identifier}-{self._duty.claim.attempt}"
        with folders.attempt_folder(self._services.settings.work_dir(), name) as folder, ExitStack() as stack:
            order = self._duty.order(folder, stack, self._check)
            self._note("inputs")
            self._check()
            result = self._verdict(*self._watch(order, folder))
            if isinstance(result, Failure):
                self._log.warning("process failed", output=endings.last_words(folder / LOG))
                return result
            publish = self._duty.collect(result, folder, self._check_uploads)
            self._note("uploaded")
            return publish

    def _watch(self, order: Order, folder: Path) -> tuple[Ending, Exit]:
        oom_kills = memory.oom_kills()
        with (
            self._started(order) as child,
            closing(self._relay(folder / RUN)) as relay,
        ):
            self._note("started")
            ending = Watch(
                child,
                lease=self._lease,
                relay=relay,
                limits=self._limits,
                stopping=self._stopping,
                hurrying=self._hurrying,
                note=self._note,
                since=self._began_at if self._limits.out_of_time else time.monotonic(),
            ).run()
            self._note("ended")
            if not self._lease.lost:
                seconds = 0.0 if self._hurrying.is_set() else _upload_seconds(ending)
                relay.finish(checkpoint_seconds=seconds, check=self._check_uploads)
        return ending, Exit(
            task=self._duty.task,
            code=ending.exit_code,
            log=folder / LOG,
            oom_kills=memory.oom_kills() - oom_kills,
        )

    @contextmanager
    def _started(self, order: Order) -> Iterator[ChildProcess]:
        with closing(self._launcher.start(order)) as child:
            self._child = child
            try:
                yield child
            finally:
                self._child = None

    def _relay(self, run: Path) -> Relay:
        return Relay(self._duty.report, lease=self._lease, store=self._services.store, run=run)

    def _verdict(self, ending: Ending, exit_: Exit) -> Outcome | Failure:
        """What the end of the process means. Raises what ends the attempt otherwise than in success or failure."""
        self._lease.check()
        if ending.reason == "cancel":
            raise JobCancelled
        if isinstance(ending.outcome, Failed):
            return ending.outcome.failure
        if ending.outcome and not isinstance(ending.outcome, Stopped):
            return ending.outcome
        failure = _limit_failure(ending, self._limits, exit_)
        if failure is None and (ending.reason in {"stop", "pause"} or self._stopping.wait(_SIGNALS_ARRIVE_SECONDS)):
            raise Interrupted
        if failure is None and endings.was_killed(exit_) and self._duty.task != "train":
            message = "somebody else killed it"
            raise ProcessKilled(message)
        return (failure or endings.failure_of_exit(exit_)).model_copy(update={"phase": ending.phase})

    def _check(self) -> None:
        self._lease.check()
        self._check_time()
        if self._stopping.is_set() or self._lease.pause_requested:
            raise Interrupted

    def _check_uploads(self) -> None:
        """The same for what was made already: a moment more, and nobody has to make it again."""
        self._lease.check()
        self._check_time(more_seconds=GRACE_SECONDS["budget"])
        if self._hurrying.is_set() or self._stopping.seconds > _UPLOADS_STOP_SECONDS:
            raise Interrupted

    def _check_time(self, *, more_seconds: float = 0.0) -> None:
        over, seconds = self._limits.out_of_time, self._limits.seconds
        if over and seconds is not None and time.monotonic() - self._began_at > seconds + more_seconds:
            raise OutOfTime(over)

    def abandon(self) -> None:
        """From another thread, because this one does not stop: give back what is ours, and kill what runs.

        The fence makes that safe: of two who end an attempt, one does. Killing may have to wait for who starts another
        process, and comes last: it happens in any case when this process ends. Never raises.
        """
        self._release_at_last()
        try:
            if child := self._child:
                child.kill()
        except Exception as error:  # noqa: BLE001 (the edge of the thread: it may be closed meanwhile)
            self._log.warning("not killed", error=repr(error))

    def _release_at_last(self) -> None:
        try:
            claims.release(self._services, self._duty.claim, charge_attempt=False)
        except LeaseLostError:
            return  # it has ended meanwhile
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the lease runs out, and the sweeper takes it back)
            self._log.warning("not given back", error=repr(error))
        else:
            self._log.warning("given back without its end")

    def _give_back(self, word: str, *, charge_attempt: bool) -> str:
        release = self._lease.persist
        outcome = release(lambda: claims.release(self._services, self._duty.claim, charge_attempt=charge_attempt))
        return word if outcome == "waits" else outcome

    def _fail(self, failure: Failure) -> str:
        self._log.info("attempt failed", error_class=failure.error_class, code=failure.code)
        if failure.code == StorageFullError.code:
            room.clear_caches(self._services)
        return self._lease.persist(lambda: self._duty.fail(failure))

    def _note(self, moment: str) -> None:
        """Seconds since the claim, for the log: what a job waits for."""
        self._seconds[f"{moment.replace(' ', '_')}_seconds"] = round(time.monotonic() - self._duty.claim.claimed_at, 3)


def _upload_seconds(ending: Ending) -> float:
    if ending.reason is not None:
        return _UPLOAD_SECONDS.get(ending.reason, 0.0)
    ended = ending.outcome
    faulty = ended is None or (isinstance(ended, Failed) and ended.failure.error_class != "user")
    return _UPLOAD_SECONDS_AFTER_A_FAULT if faulty else 0.0


def _limit_failure(ending: Ending, limits: Limits, exit_: Exit) -> Failure | None:
    if ending.reason == "stall":
        return endings.failure_of_stall(exit_, seconds=limits.stall_seconds)
    if ending.reason == "memory":
        return CapacityError(
            f"The process took more than {limits.memory_bytes / 1024**3:.1f} GiB of memory and was ended. Use a "
            f"smaller batch size or smaller inputs, or allow more (THAW_TRAINING_MEMORY_BYTES)."
        ).failure()
    if ending.reason == "budget":
        return limits.out_of_time
    if ending.reason == "timeout":
        return Failure(
            error_class="budget",
            code="preparation_timeout",
            message=(
                f"Checking the file took longer than {limits.seconds:.0f} s and was ended. Use a smaller file, or "
                f"allow more time (THAW_PREPARATION_TIMEOUT_SECONDS)."
            ),
        )
    return None
