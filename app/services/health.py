"""Health: whether the parts that requests need answer, each by itself. For `/readyz`, and for `thaw doctor`."""

import threading
import time
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import ThawError
from app.services import workers
from app.services.context import Services
from app.storage import artifacts, inspection
from app.storage.database import describe, pending

KEPT_SECONDS = 2.0
"""Trying the store out writes, syncs and deletes: asked more often than this, it gives its last answer once more."""


@dataclass(frozen=True)
class PartHealth:
    """One part: `database`, `store`, `broker`, `workers`."""

    name: str
    ok: bool
    detail: str
    needed: bool = True
    """Whether requests fail without it."""
    out_of_room: bool = False
    """Whether nothing else is wrong with it: it goes on by itself when there is room."""


class Checkup:
    """Asks every part, for as long as the service lives. Any number of threads may ask at once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._store: PartHealth | None = None
        self._stale_at = 0.0
        """By the monotonic clock."""

    def parts(self) -> list[PartHealth]:
        """Broker and workers are told of, but their absence makes nobody unready: jobs are accepted, and wait."""
        services = self._services
        found = _writable_database(services)
        return [found, self._kept_store(), broker(services), *([_workers(services)] if found.ok else [])]

    def _kept_store(self) -> PartHealth:
        with self._lock:
            if self._store is None or time.monotonic() >= self._stale_at:
                self._store = store(self._services)
                self._stale_at = time.monotonic() + KEPT_SECONDS
            return self._store


def database(services: Services) -> PartHealth:
    """Whether it answers, with the schema of this version."""
    try:
        with services.db.read() as session:
            missing, detail = pending(session), describe(session)
    except SQLAlchemyError as error:
        return _silent_database(error)
    return PartHealth("database", ok=missing is None, detail=missing or detail)


def _writable_database(services: Services) -> PartHealth:
    """Whether it answers, and can be written; a server's disk is not seen."""
    found = database(services)
    if not found.ok:
        return found
    try:
        refused = inspection.read_only(services.db)
    except SQLAlchemyError as error:
        return _silent_database(error)
    if refused is not None:
        return PartHealth("database", ok=False, detail=f"can only be read: {refused.why}. {refused.advice}")
    free, needed = inspection.free_bytes(services.db), services.settings.min_free_disk_bytes
    if free is not None and free < needed:
        return PartHealth("database", ok=False, detail=_room(free, needed), out_of_room=True)
    return found


def _silent_database(error: SQLAlchemyError) -> PartHealth:
    # Without the statement and its parameters, and never with the URL.
    return PartHealth("database", ok=False, detail=f"does not answer: {type(error).__name__}")


def store(services: Services) -> PartHealth:
    """Whether it has room, and a blob can be written, read and deleted."""
    try:
        services.store.probe()
        free, needed = services.store.free_bytes(), services.settings.min_free_disk_bytes
        if free >= needed:
            artifacts.try_out(services.store)
    except OSError as error:
        return PartHealth("store", ok=False, detail=f"does not answer: {error.strerror}")
    except ThawError as error:
        return PartHealth("store", ok=False, detail=error.message)
    return PartHealth("store", ok=free >= needed, detail=_room(free, needed), out_of_room=free < needed)


def _room(free: int, needed: int) -> str:
    return f"{free:,} bytes free, at least {needed:,} are kept free"


def broker(services: Services) -> PartHealth:
    """Whether it answers."""
    answers = services.doorbell.reachable()
    detail = "answers" if answers else "does not answer; jobs are accepted, and start when it is back"
    return PartHealth("broker", ok=answers, detail=detail, needed=False)


def _workers(services: Services) -> PartHealth:
    live = workers.live(services)
    listed = ", ".join(f"{worker.id} ({', '.join(worker.queues)})" for worker in live)
    detail = f"{len(live)} live: {listed}" if live else "none is live"
    return PartHealth("workers", ok=True, detail=detail, needed=False)
