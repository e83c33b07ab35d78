"""Whether this worker's artifact store is that of its database; shared by its threads.

On the wrong store every job would fail within seconds for want of its files. So a worker on it takes none.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.domain.errors import PlatformError, ServiceUnavailableError
from app.services import pairing
from app.services.context import Services
from worker.lease import UNREACHABLE

AGAIN_SECONDS = 30.0
"""How long a refusal is believed, before it is looked again: somebody may have mounted the folder."""

_log = structlog.get_logger(__name__)


class Pairing:
    """Remembers what was found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._mutex = threading.Lock()
        self._found: str | None = None
        self._look_at: float | None = 0.0
        """By the monotonic clock; `None` once it is the right store."""

    @contextmanager
    def doubted(self) -> Iterator[None]:
        """As `app.services.pairing.doubted`; and it is looked again before the next training."""
        try:
            with pairing.doubted(self._services):
                yield
        except ServiceUnavailableError as error:
            if isinstance(error.__cause__, PlatformError):  # it answers: looking again will not wait for it
                self._look_soon()
            raise

    def ask(self) -> None:
        """Raise `ServiceUnavailableError` on the wrong store: before a job begins anew for want of its checkpoints."""
        if because := pairing.refusal(self._services):
            self._look_soon()
            message = f"No checkpoint can be had on this worker: {because}."
            raise ServiceUnavailableError(message)

    def refusal(self) -> str | None:
        """Why this worker must not train, or `None`. What does not answer leaves it as it was found last."""
        with self._mutex:
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look()
            return self._found

    def _look_soon(self) -> None:
        with self._mutex:
            self._look_at = 0.0

    def _look(self) -> None:
        self._look_at = time.monotonic() + AGAIN_SECONDS
        try:
            found = pairing.refusal(self._services)
        except UNREACHABLE as error:
            _log.warning("database or artifact store not reached, whether they fit is not known", error=repr(error))
            if self._found is None:
                self._look_at = None  # who announces a worker must not wait for a store: what is missing asks again
            return
        if found and not self._found:
            _log.error("this worker takes on no trainings", because=found)
        elif self._found and not found:
            _log.info("the artifact store has what the database refers to, this worker trains again")
        self._found = found
        if found is None:
            self._look_at = None
