"""The sweeper: a thread in every worker that says that it lives, takes back what dead ones held, and rings again.

Several at once are harmless: every step is a compare-and-set.
"""

import threading
import time
from collections.abc import Callable
from importlib import metadata

import structlog

from app.domain.worker import WorkerCapabilities
from app.services import sweep, workers
from app.services.context import Services

_log = structlog.get_logger(__name__)


class Sweeper(threading.Thread):
    """Works every `sweep_seconds` until it is ended. A database that does not answer is tried again."""

    def __init__(self, services: Services, *, worker: str, capabilities: Callable[[], WorkerCapabilities]) -> None:
        """`capabilities`: what the worker says about itself, asked for each time."""
        super().__init__(name="sweeper", daemon=True)
        self._services = services
        self._worker = worker
        self._capabilities = capabilities
        self._over = threading.Event()

    def run(self) -> None:
        """Announce and sweep, again and again."""
        while True:
            started = time.monotonic()
            self._round()
            if self._over.wait(max(0.1, started + self._services.settings.sweep_seconds - time.monotonic())):
                return

    def end(self) -> None:
        """Stop after the round that runs now."""
        self._over.set()

    def _round(self) -> None:
        try:
            workers.announce(self._services, worker=self._worker, capabilities=self._capabilities())
            result = sweep.sweep(self._services)
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the next round may succeed)
            _log.warning("sweep failed, trying again", error=repr(error))
        else:
            _log.debug("swept", result=result)


def version(package: str) -> str | None:
    """The installed version, without importing the package; `None` if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
