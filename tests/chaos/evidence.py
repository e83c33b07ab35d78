"""What a run left behind, read by plain SQL and as plain files: nothing of Thaw's own code looks at it.

The store of blobs is a folder: `sha256/ab/cd/abcd…`.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

Row = dict[str, Any]
_PATIENCE_SECONDS = 60.0
"""How long a database that is being disturbed may be away."""


@dataclass
class Evidence:
    """One database and one store."""

    database: Path | str
    """SQLite's file, or what libpq takes for PostgreSQL."""
    store: Path
    _hashed: dict[Path, str] = field(default_factory=dict)

    def rows(self, query: str, *values: object) -> list[Row]:
        """The rows; `?` stands for values. Waits for a database that is away."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                with self._connection() as connection:
                    return _select(connection, self._spelled(query), values)
            except (sqlite3.OperationalError, psycopg.OperationalError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection: Any
        if isinstance(self.database, Path):
            connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)
        else:
            connection = psycopg.connect(self.database, connect_timeout=5)
        with closing(connection):
            yield connection

    def _spelled(self, query: str) -> str:
        return query if isinstance(self.database, Path) else query.replace("?", "%s")

    def path_of(self, sha256: str) -> Path:
        """Where a blob must be."""
        return self.store / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def sha256_of(self, sha256: str) -> str | None:
        """What the blob of that name really contains; `None`: it is not there."""
        path = self.path_of(sha256)
        if not path.is_file():
            return None
        if path not in self._hashed:
            self._hashed[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._hashed[path]


def _select(connection: Any, query: str, values: tuple[object, ...]) -> list[Row]:
    cursor = connection.cursor()
    cursor.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, found, strict=True)) for found in cursor.fetchall()]


def parsed(value: Any) -> Any:
    """A column of JSON: text in SQLite, values in PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value
