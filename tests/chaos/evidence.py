"""What a run left behind, read by plain SQL and as plain files or objects: nothing of Thaw's own code looks at it.

A store of blobs is a folder or a bucket, and names them by their sha256: `sha256/ab/cd/abcd…`.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import psycopg

Row = dict[str, Any]
_PATIENCE_SECONDS = 60.0
"""How long a database that is being disturbed may be away."""


class Store(Protocol):
    """Where blobs are."""

    def content(self, sha256: str) -> bytes | None:
        """What is stored under that name; `None`: nothing."""
        ...


@dataclass(frozen=True)
class Folder:
    """A local artifact store."""

    path: Path

    def path_of(self, sha256: str) -> Path:
        """Where a blob must be."""
        return self.path / _key(sha256)

    def content(self, sha256: str) -> bytes | None:
        """The file's bytes."""
        path = self.path_of(sha256)
        return path.read_bytes() if path.is_file() else None


@dataclass(frozen=True)
class Bucket:
    """An artifact store in S3, read by another client than Thaw's, and not through a proxy."""

    endpoint: str
    name: str
    prefix: str

    @cached_property
    def client(self) -> Any:
        """Of boto3."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="evidence",
            aws_secret_access_key="evidence",
        )

    def content(self, sha256: str) -> bytes | None:
        """The object's bytes."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=f"{self.prefix}/{_key(sha256)}")
        except self.client.exceptions.NoSuchKey:
            return None
        content: bytes = answer["Body"].read()
        return content


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


@dataclass(frozen=True)
class Blob:
    """What a blob really is."""

    sha256: str
    bytes: int


@dataclass
class Evidence:
    """One database and one store."""

    database: Path | str
    """SQLite's file, or what libpq takes for PostgreSQL."""
    store: Store
    _seen: dict[str, Blob] = field(default_factory=dict)

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

    def damage(self) -> list[str]:
        """What is wrong with the file and the indexes of SQLite, by its own checks; PostgreSQL has none built in."""
        if not isinstance(self.database, Path):
            return []
        found = [str(row["integrity_check"]) for row in self.rows("PRAGMA integrity_check")]
        torn = [
            f"row {row['rowid']} of {row['table']} refers to nothing" for row in self.rows("PRAGMA foreign_key_check")
        ]
        return [each for each in [*found, *torn] if each != "ok"]

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

    def blob(self, named: str) -> Blob | None:
        """What is really stored under that name, as its content says; `None`: nothing."""
        if named not in self._seen:
            content = self.store.content(named)
            if content is None:
                return None
            self._seen[named] = Blob(hashlib.sha256(content).hexdigest(), len(content))
        return self._seen[named]


def _select(connection: Any, query: str, values: tuple[object, ...]) -> list[Row]:
    cursor = connection.cursor()
    cursor.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, found, strict=True)) for found in cursor.fetchall()]


def parsed(value: Any) -> Any:
    """A column of JSON: text in SQLite, values in PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value
