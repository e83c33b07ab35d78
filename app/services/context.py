"""What every service function needs: settings, database, artifact store, doorbell."""

from dataclasses import dataclass
from typing import Literal, Protocol

from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.database import Database
from app.storage.local import LocalArtifacts

TaskName = Literal["train", "register", "validate"]

DEFAULT_PROJECT = "default"
"""The one project that there is so far; the first migration makes it."""


class Doorbell(Protocol):
    """Tells workers that there is something to do. A hint may be lost or come twice; the row is the job."""

    def ring(self, task: TaskName, identifier: str, *, queue: str) -> bool:
        """Ring the workers of a queue, within about 100 ms and without raising; `False`: the hint got nowhere."""
        ...

    def reachable(self) -> bool:
        """Whether the broker answers, within a second."""
        ...


@dataclass(frozen=True)
class Services:
    """The parts that service functions work with."""

    settings: Settings
    db: Database
    store: ArtifactStore
    doorbell: Doorbell


REQUEST_PATIENCE_SECONDS = 5.0
"""How long a request waits for a store on the network that does not answer, before somebody is told so."""


def build(settings: Settings, *, patience_seconds: float = REQUEST_PATIENCE_SECONDS) -> Services:
    """Make folders, connections, store and doorbell. The schema is `app.storage.database.ensure_schema`'s business.

    `patience_seconds`: how long a store that does not answer is tried again. Raises `MisconfiguredError`.
    """
    from app.queue import CeleryDoorbell

    for folder in (settings.data_dir, settings.work_dir(), settings.run_dir()):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Services(
        settings=settings,
        db=Database(settings.resolved_database_url()),
        store=_store(settings, patience_seconds=patience_seconds),
        doorbell=CeleryDoorbell(settings),
    )


def _store(settings: Settings, *, patience_seconds: float) -> ArtifactStore:
    """A bucket where one is set, else a folder of the data folder."""
    if settings.artifacts_url:
        from app.storage.s3 import S3Artifacts

        return S3Artifacts(settings, patience_seconds=patience_seconds)
    return LocalArtifacts(settings.artifacts_dir(), min_free_bytes=settings.min_free_disk_bytes)
