"""How a worker leaves: it knows since when it is asked to, and gives back what it has, whatever hangs."""

import os
import threading
import time
from collections.abc import Callable

import structlog

LAST_RESORT_SECONDS = 0.5
"""How long the last resort may take, before the process is gone."""

_log = structlog.get_logger(__name__)


class Stopping(threading.Event):
    """Set when this worker is asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        self._set_at = 0.0

    def set(self) -> None:
        """Asking again changes nothing."""
        if not self.is_set():
            self._set_at = time.monotonic()
        super().set()

    @property
    def seconds(self) -> float:
        """For how long it has been set; 0 while it is not."""
        return time.monotonic() - self._set_at if self.is_set() else 0.0


def exit_in_time(seconds: float, abandon: Callable[[], None]) -> None:
    """Leave without ceremony if leaving in order takes longer: a database that hangs, a step that never ends.

    Before that, `abandon` is called; what it has not done in time, the leases and the sweeper do.
    """

    def leave() -> None:
        _log.error("worker did not stop in time, leaving as it is", seconds=seconds)
        try:
            thread = threading.Thread(target=abandon, name="last resort", daemon=True)
            thread.start()  # which raises where too many run
            thread.join(LAST_RESORT_SECONDS)
        finally:
            os._exit(1)

    timer = threading.Timer(seconds - LAST_RESORT_SECONDS, leave)
    timer.daemon = True
    timer.start()
