"""The sweeper: a thread in every worker that says that it lives, takes back what dead ones held, and rings again.

It is also who resumes jobs that a full disk had set aside: it knows whether its own worker has room; and who looks for
those whose hint a busy worker has taken (`worker.looking`).

Several at once are harmless: every step is a compare-and-set. Now and then another thread looks for artifacts that
nothing refers to, which may take a while.
"""

import random
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

import structlog

from app.domain.worker import WorkerCapabilities
from app.services import aside, orphans, sweep, workers
from app.services.context import Services

_ORPHANS_IN_GRACE = 12
"""How often artifacts without a row are looked for while one grows old enough to be deleted."""
_SOON_SECONDS = 600.0

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class Sweeper(threading.Thread):
    """Works every `sweep_seconds` until it is ended. A database that does not answer is tried again."""

    def __init__(
        self,
        services: Services,
        *,
        worker: str,
        capabilities: Callable[[], WorkerCapabilities],
        look: Callable[[WorkerCapabilities], None] = lambda _: None,
    ) -> None:
        """`capabilities`: what the worker says about itself, asked for each time; `look` is told it in each round."""
        super().__init__(name="sweeper", daemon=True)
        self._services = services
        self._worker = worker
        self._capabilities = capabilities
        self._look = look
        self._over = threading.Event()
        self._announcing = threading.Lock()
        pause = self._orphans_pause()
        # Soon, as a worker may be restarted often; not all workers of a service at the same moment.
        self._orphans_at = time.monotonic() + random.uniform(0, min(pause, _SOON_SECONDS))  # noqa: S311 (no secret)
        self._orphans: threading.Thread | None = None

    def run(self) -> None:
        """Announce and sweep, again and again."""
        while True:
            started = time.monotonic()
            self._round()
            self._look_for_orphans()
            if self._over.wait(max(0.1, started + self._services.settings.sweep_seconds - time.monotonic())):
                return

    def end(self) -> None:
        """Stop after the round that runs now."""
        self._over.set()

    def announce(self) -> WorkerCapabilities:
        """Say that the worker lives, and what it is like now; also from other threads, when that has changed."""
        with self._announcing:  # what was asked for last must be written last
            capabilities = self._capabilities()
            workers.announce(self._services, worker=self._worker, capabilities=capabilities)
        return capabilities

    def _orphans_pause(self) -> float:
        return self._services.settings.orphan_grace_seconds / _ORPHANS_IN_GRACE

    def _look_for_orphans(self) -> None:
        if time.monotonic() < self._orphans_at or (self._orphans and self._orphans.is_alive()):
            return
        self._orphans_at = time.monotonic() + self._orphans_pause()
        self._orphans = threading.Thread(target=self._remove_orphans, name="orphans", daemon=True)
        self._orphans.start()

    def _remove_orphans(self) -> None:
        try:
            orphans.remove_orphans(self._services)
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the next one may succeed)
            _log.warning("left over artifacts not deleted, trying again later", error=repr(error))

    def _round(self) -> None:
        """What fails keeps nothing else from being done: one broken row must not stop a worker from looking.

        Who could not say that it lives takes nothing, but sweeps: on a full disk that makes the room to say it.
        """
        services = self._services
        capabilities = self._tried("announced", self.announce)
        if capabilities is not None:
            self._tried("resumed", lambda: aside.resume(services, capabilities))
        self._tried("swept", lambda: sweep.sweep(services))
        if capabilities is not None:
            self._tried("looked", lambda: self._look(capabilities))

    def _tried(self, what: str, do: Callable[[], T]) -> T | None:
        try:
            found = do()
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the next round may succeed)
            _log.warning("sweep failed, trying again", what=what, error=repr(error))
            return None
        _log.debug(what, result=found)
        return found


def version(package: str) -> str | None:
    """The installed version, without importing the package; `None` if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
