"""Celery, as far as it is used: a pool of threads that takes hints off queues."""

import signal
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.worker import state
from celery.worker.consumer import Consumer

from app.queue import QueueName, working_celery
from app.settings import Settings

_RECONNECT_SECONDS = 2.0
"""Longest pause between two tries; Celery's own half a minute would let jobs wait after Redis is back."""


class PatientConsumer(Consumer):
    """Connects again for ever, and soon."""

    def ensure_connected(self, conn: Any) -> Any:  # noqa: ANN401 (kombu has no types)
        """Celery's own, with shorter pauses."""
        ensure = conn.ensure_connection

        def soon(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (passed on as it is)
            return ensure(*args, interval_start=0.5, interval_step=0.5, interval_max=_RECONNECT_SECONDS, **kwargs)

        conn.ensure_connection = soon
        return super().ensure_connected(conn)


DRAIN_SIGNAL = signal.SIGUSR1


class HintWorker(Worker):
    """Celery's worker program without its banner and its way of restarting. `on_drain`: called when it is drained."""

    on_drain: Callable[[], None]

    def install_platform_tweaks(self, worker: Any) -> None:  # noqa: ANN401 (Celery has no types)
        """Every signal stops it, in order, and a second one in a hurry; SIGUSR1 drains it.

        A second SIGINT would have Celery abandon its tasks, before they have given their jobs back. On SIGHUP it would
        start itself anew, from an environment that we have emptied; one that `nohup` has it ignore stays ignored.
        """
        on_hangup = signal.getsignal(signal.SIGHUP)
        super().install_platform_tweaks(worker)
        stop = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, on_hangup if on_hangup is signal.SIG_IGN else stop)
        # In the place of Celery's own, which prints the stacks of all threads.
        signal.signal(DRAIN_SIGNAL, self._drain)

    def _drain(self, *_: object) -> None:
        """Take no more hints, wait for what runs, leave: what Celery does on SIGTERM, without our `on_stop`."""
        self.on_drain()
        state.should_stop = 0


def create(settings: Settings) -> Celery:
    """The Celery instance of a worker; `worker.tasks.define` gives it its tasks."""
    celery = working_celery(settings)
    celery.conf.update(worker_consumer=PatientConsumer)
    return celery


def serve(
    celery: Celery,
    *,
    name: str,
    queues: Sequence[QueueName],
    concurrency: int,
    on_stop: Callable[[], None],
    on_drain: Callable[[], None],
) -> int:
    """Take hints until a signal says stop; returns the exit code.

    `on_stop` is called in the signal's handler, each time that one comes, and so is `on_drain` on SIGUSR1: then what
    runs is waited for.
    """

    def stop(**_: object) -> None:
        on_stop()

    def leave_logging_alone(**_: object) -> None:
        """A receiver of this signal keeps Celery from configuring it."""

    signals.worker_shutting_down.connect(stop, weak=False)
    signals.setup_logging.connect(leave_logging_alone, weak=False)
    worker = HintWorker(
        app=celery,
        hostname=name,
        pool_cls="threads",
        concurrency=concurrency,
        queues=list(queues),
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.on_drain = on_drain
    worker.start()
    return int(worker.exitcode or 0)
