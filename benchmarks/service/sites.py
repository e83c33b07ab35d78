"""Where the load is put: databases, the services on them, and API processes that serve them."""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import servers
from servers import Server

from app.services import context
from app.services.context import Services
from app.settings import Settings
from app.storage.database import ensure_schema
from tests.servers import Postgres

DatabaseKind = Literal["sqlite", "postgresql"]
MEMORY = Path("/dev/shm")  # noqa: S108 (a file system in memory is what is wanted)


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    jobs: int
    """In the long list; the short one has a thousandth of it, but at least a thousand."""
    turns: int
    """Requests of each kind and side."""
    listeners: int
    queued: int
    """In the long line; the short one has 10."""
    transfer_bytes: int
    rounds: int
    """Of uploads and downloads, and of many clients at once."""


@dataclass(frozen=True)
class Site:
    """A database, and this process' services on it: to make what clients cannot make."""

    settings: Settings
    services: Services

    @contextlib.contextmanager
    def api(self, *, database_url: str | None = None) -> Iterator[Server]:
        """An API process that serves it, until the block ends; `database_url`: another way to the same database."""
        url = database_url or self.settings.resolved_database_url()
        environment = {
            "THAW_DATA_DIR": str(self.settings.data_dir),
            "THAW_DATABASE_URL": url,
            "THAW_REDIS_URL": self.settings.redis_url.get_secret_value() if self.settings.redis_url else "",
            "THAW_API_KEY": servers.KEY,
        }
        with servers.api(environment, self.settings.data_dir / "api.log") as server:
            yield server


class Bench:
    """Everything that runs while figures are taken; leaving the block ends it and deletes it."""

    def __init__(self, folder: Path, *, database: DatabaseKind, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes
        self.database = database
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.redis_url = self._open.enter_context(servers.broker(self.folder / "broker"))
        self.bare = self._open.enter_context(servers.bare(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @functools.cached_property
    def postgres(self) -> Postgres:
        return self._open.enter_context(servers.postgresql())

    def site(self, name: str, *, folder: Path | None = None) -> Site:
        """An empty database with today's schema."""
        data_dir = (folder or self.folder) / name
        url = None if self.database == "sqlite" else self.postgres.create_database(name)
        settings = Settings(data_dir=data_dir, database_url=url, redis_url=self.redis_url)
        services = context.build(settings)
        self._open.callback(services.db.close)
        ensure_schema(services.db)
        return Site(settings, services)

    def serve(self, site: Site) -> Server:
        """An API process that serves it until the bench is left."""
        return self._open.enter_context(site.api())

    @contextlib.contextmanager
    def folder_in_memory(self) -> Iterator[Path | None]:
        """A folder where nothing is ever synced to a disk; `None` where this system has none."""
        if not os.access(MEMORY, os.W_OK):
            yield None
            return
        folder = MEMORY / f"thaw-bench-{os.getpid()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
