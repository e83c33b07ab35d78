"""Health: whether the parts that requests need answer, each by itself."""

from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import ServiceUnavailableError
from app.services import workers
from app.services.context import Services
from app.storage.database import describe, pending


@dataclass(frozen=True)
class PartHealth:
    """One part: `database`, `store`, `broker`, `workers`."""

    name: str
    ok: bool
    detail: str


def check(services: Services) -> list[PartHealth]:
    """Ask every part. Workers are told of, but their absence makes nobody unready: jobs wait for them."""
    database = _database(services)
    return [database, _store(services), _broker(services), *([_workers(services)] if database.ok else [])]


def _database(services: Services) -> PartHealth:
    try:
        with services.db.read() as session:
            missing, detail = pending(session), describe(session)
    except SQLAlchemyError as error:
        # Without the statement and its parameters, and never with the URL.
        return PartHealth("database", ok=False, detail=f"does not answer: {type(error).__name__}")
    return PartHealth("database", ok=missing is None, detail=missing or detail)


def _store(services: Services) -> PartHealth:
    try:
        services.store.probe()
        free, needed = services.store.free_bytes(), services.settings.min_free_disk_bytes
    except ServiceUnavailableError as error:
        return PartHealth("store", ok=False, detail=error.message)
    except OSError as error:
        return PartHealth("store", ok=False, detail=f"does not answer: {error.strerror}")
    return PartHealth("store", ok=free >= needed, detail=f"{free:,} bytes free, at least {needed:,} are kept free")


def _broker(services: Services) -> PartHealth:
    if services.doorbell.reachable():
        return PartHealth("broker", ok=True, detail="answers")
    return PartHealth("broker", ok=False, detail="does not answer; jobs are accepted, and start when it is back")


def _workers(services: Services) -> PartHealth:
    live = workers.live(services)
    listed = ", ".join(f"{worker.id} ({', '.join(worker.queues)})" for worker in live)
    return PartHealth("workers", ok=True, detail=f"{len(live)} live: {listed}" if live else "none is live")
