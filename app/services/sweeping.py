"""A thread of the API that sweeps: also where no worker lives, jobs end at their deadlines and cancels are carried out.

Workers sweep as well, any number of them at once; what needs a worker (room for a job that was set aside, a look for
jobs whose hint was lost, artifacts without a row) is left to them.
"""

import contextlib
import threading
from collections.abc import Iterator

import structlog

from app.services.context import Services
from app.services.sweep import sweep

LEAVING_SECONDS = 2.0
"""How long a sweep may take to its end when the API stops; then it is left behind."""

_log = structlog.get_logger(__name__)


@contextlib.contextmanager
def sweeping(services: Services) -> Iterator[None]:
    """Sweep every `sweep_seconds` until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=_run, args=(services, over), name="sweeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LEAVING_SECONDS)


def _run(services: Services, over: threading.Event) -> None:
    while not over.wait(services.settings.sweep_seconds):
        try:
            result = sweep(services)
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the next round may succeed)
            _log.warning("sweep failed, trying again", error=repr(error))
        else:
            _log.debug("swept", result=result)
