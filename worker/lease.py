"""The lease of one claim while its supervisor works: renewed in time, or the work ends.

    claim --renew every heartbeat_seconds-->  …  --one last write--> over
                      └── refused, or fence_seconds without success: lost. Nothing is written any more.

A thread of its own talks to the database, so that a database that hangs does not keep the supervisor from noticing
that time is up: it must have ended its training process before anybody else may claim the job.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.domain.errors import LeaseLostError, ServiceUnavailableError
from app.services import claims
from app.services.claims import Claim
from app.services.context import Services

POLL_SECONDS = 0.5
"""How often a wish to cancel or pause is looked for, and a failed renewal tried again."""

UNREACHABLE = (DBAPIError, PoolTimeoutError, ServiceUnavailableError, OSError)
"""What a database that cannot be reached right now looks like."""
_REFUSED = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""What one that answers, and never takes this, looks like: its schema was upgraded, or the value is none."""

T = TypeVar("T")


class JobCancelled(Exception):  # noqa: N818 (named for what happened)
    """Somebody asked for the job to be cancelled."""


class Lease:
    """Holds a claim from `with` to its end."""

    def __init__(self, services: Services, claim: Claim, *, log: Any) -> None:  # noqa: ANN401 (structlog's loggers have no common type)
        self._services = services
        self._claim = claim
        self._settings = services.settings
        self._renewed_at = claim.claimed_at
        self._log = log
        self._lost = threading.Event()
        self._over = threading.Event()
        self._cancel = threading.Event()
        self._pause = False
        self._thread = threading.Thread(target=self._keep, name=f"lease of {claim.identifier}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # A thread that hangs in the database is left behind; what it would write is fenced off by then.
        self._thread.join(timeout=POLL_SECONDS)

    @property
    def lost(self) -> bool:
        """Whether everything must end now, without another write."""
        if time.monotonic() - self._renewed_at > self._settings.fence_seconds:
            self.give_up("not renewed in time")
        return self._lost.is_set()

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked to cancel the job, as seen at most `POLL_SECONDS` ago."""
        return self._cancel.is_set()

    @property
    def pause_requested(self) -> bool:
        """Whether somebody wants the job to pause, and still did at most `POLL_SECONDS` ago."""
        return self._pause

    def give_up(self, reason: str) -> None:
        """Treat it as lost from now on."""
        if not self._lost.is_set():
            self._log.warning("lease lost", reason=reason)
            self._lost.set()

    def check(self) -> None:
        """Raise `LeaseLostError` or `JobCancelled` if there is nothing left to work for."""
        self._check_lost()
        if self.cancel_requested:
            raise JobCancelled

    def persist(self, write: Callable[[], T]) -> T:
        """Write to the database, waiting for one that cannot be reached as long as the lease is ours.

        Raises what a database says that will not take it however often it is asked, and `LeaseLostError`.
        """
        while True:
            self._check_lost()
            try:
                return write()
            except LeaseLostError as error:
                self.give_up(str(error))
                raise
            except _REFUSED:
                raise
            except UNREACHABLE as error:
                self._log.warning("database not reached, trying again", error=repr(error))
                self._lost.wait(POLL_SECONDS)

    def _check_lost(self) -> None:
        if self.lost:
            message = f"Attempt {self._claim.attempt} of {self._claim.identifier} is no longer the owner."
            raise LeaseLostError(message)

    def _keep(self) -> None:
        pause = min(POLL_SECONDS, self._settings.heartbeat_seconds)
        while not self._over.wait(pause) and not self.lost:
            try:
                self._renew()
                self._look_for_wishes()
            except LeaseLostError as error:
                if not self._over.is_set():  # after the last write there is nothing to hold any more
                    self.give_up(str(error))
            except Exception as error:  # noqa: BLE001 (the edge of the thread: whatever it is, the fence decides)
                self._log.warning("lease not renewed, trying again", error=repr(error))

    def _renew(self) -> None:
        started = time.monotonic()
        if started - self._renewed_at >= self._settings.heartbeat_seconds:
            claims.renew(self._services, self._claim)
            self._renewed_at = started

    def _look_for_wishes(self) -> None:
        if self._cancel.is_set():
            return
        wishes = claims.wishes(self._services, self._claim)
        self._pause = wishes.pause
        if wishes.cancel:
            self._log.info("cancel requested")
            self._cancel.set()
