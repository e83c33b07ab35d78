"""The database: SQLite on one machine, PostgreSQL for many, the same statements on both.

    begin()   one transaction that writes      SQLite: BEGIN IMMEDIATE    PostgreSQL: READ COMMITTED
    read()    one transaction that only reads  SQLite: BEGIN              PostgreSQL: READ COMMITTED
    snapshot()     … that sees one state       SQLite: BEGIN              PostgreSQL: REPEATABLE READ

SQLite must know at BEGIN that a transaction will write: one that starts as a reader and writes later cannot wait
for another writer, it gets "database is locked" at once (https://sqlite.org/lang_transaction.html).
"""

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Double, Engine, create_engine, event, inspect, make_url, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.domain.errors import MisconfiguredError
from app.storage import postgresql

MIGRATIONS = Path(__file__).parent / "migrations"

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
RARE_FAULT = "; 3.51.3 and later repair a rare fault of its WAL mode"
"""Two connections that write and reset the WAL at the same moment (https://sqlite.org/wal.html#walresetbug)."""

BUSY_SECONDS = 30
"""How long SQLite waits for another process' transaction to end."""

SQLITE_POOL: Mapping[str, Any] = {"pool_size": 10, "max_overflow": 40}
"""A connection is an open file: none of a server's threads (40 in Starlette's pool) need wait for one."""

AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
"""What a database that does not answer, or takes no writes now, looks like."""

SQLITE_FULL = "database or disk is full"

UPGRADE_LOCK = 0x7468_6177
"""Names PostgreSQL's advisory lock around an upgrade ("thaw" in ASCII)."""


class now(FunctionElement[float]):  # noqa: N801 (it stands in statements like a function of SQL)
    """Unix seconds by the database's clock, at the moment the statement runs. Leases know no other clock."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_on_sqlite(*_: object, **__: object) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_on_postgresql(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    # Not now(): that stands still inside a transaction, which may have waited for a lock.
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


class Database:
    """Connections to one database. Build it once for each process, close it at the end."""

    def __init__(self, url: str) -> None:
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self._engine = _sqlite(url) if is_sqlite else postgresql.engine(url, json_serializer=_json)
        # Shares the pool and the events with the engine above.
        self._writing = self._engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    @property
    def engine(self) -> Engine:
        """For migrations and tests."""
        return self._engine

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """One transaction that may write: committed at the end, rolled back on any error."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One transaction that only reads; on SQLite it sees one state of the database throughout."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """One transaction that only reads, and sees one state of the database throughout."""
        postgresql = self._engine.dialect.name == "postgresql"
        engine = self._engine.execution_options(isolation_level="REPEATABLE READ") if postgresql else self._engine
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


class OneTransaction(Database):
    """A database whose transactions can be made one: for what several of them do and must do together or not at all.

    Inside `held`, the first `begin` opens a transaction, the later ones join it, and it is committed at the end. For
    one thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: ExitStack | None = None
        self._session: Session | None = None

    @property
    def engine(self) -> Engine:
        """The database's own."""
        return self._database.engine

    @contextmanager
    def held(self) -> Iterator[None]:
        """One transaction, from the first `begin` in it to its end: committed then, rolled back on any error."""
        with ExitStack() as held:
            self._held = held
            try:
                yield
            finally:
                self._held = self._session = None

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """As ever outside `held`; inside it, the one transaction."""
        if self._held is None:
            with self._database.begin() as session:
                yield session
            return
        if self._session is None:
            self._session = self._held.enter_context(self._database.begin())
        yield self._session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """What the one transaction has written is seen by it."""
        if self._session is not None:
            yield self._session
            return
        with self._database.read() as session:
            yield session


def time_of(session: Session) -> float:
    """The database's clock now, in Unix seconds: for rows that are made together and must agree."""
    return session.execute(select(now())).scalar_one()


def insert_or_ignore(session: Session, row: type[DeclarativeBase], values: Mapping[str, Any]) -> bool:
    """Insert a row; `False`: one with the same key is there already, and stays as it is."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    statement = insert(row).values(values).on_conflict_do_nothing()
    # One column of the row as proof: a row count is not promised by every driver.
    proof = inspect(row).primary_key[0]
    return session.execute(statement.returning(proof)).one_or_none() is not None


# === Engines ===

_BEGIN = "thaw_begin"


def _sqlite(url: str) -> Engine:
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    # isolation_level None: the driver begins nothing by itself, `_begin_sqlite` does.
    arguments: dict[str, Any] = {"timeout": BUSY_SECONDS, "isolation_level": None}
    engine = create_engine(
        url,
        module=sqlite_library(),
        connect_args=arguments,
        json_serializer=_json,
        hide_parameters=True,
        **SQLITE_POOL,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def lacks_file(url: str) -> bool:
    """Whether that is an SQLite whose file nobody has made yet; asking it would make it."""
    found = make_url(url)
    return found.get_backend_name() == "sqlite" and not (found.database and Path(found.database).is_file())


def sqlite_library() -> ModuleType:
    """Python's own, or, where that has the rare fault, that of the package pysqlite3 where there is one.

    A process must open one file by one of them alone: closing it in one lets go the locks of the other
    (https://sqlite.org/howtocorrupt.html, 2.2.1).
    """
    from sqlite3 import dbapi2

    if not _is_repaired(dbapi2.sqlite_version_info):
        with contextlib.suppress(ImportError):
            return importlib.import_module("pysqlite3.dbapi2")
    return dbapi2


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 (a DBAPI connection, which has no type of its own)
    cursor = connection.cursor()
    # FULL: NORMAL may lose committed rows when the power fails.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _json(value: object) -> str:
    """Lone surrogates, as in names of files that are no UTF-8, are no text that anybody could read again."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode("utf-8")


# === Migrations ===


@dataclass(frozen=True)
class Schema:
    """Where a database's schema stands among the migrations that this version of Thaw has."""

    at: str | None
    """Its revision; `None`: there is no schema yet."""
    head: str
    """The revision that this version needs."""
    known: bool
    """Whether this version has the revision that it stands at; not one of a newer Thaw."""

    @property
    def missing(self) -> str | None:
        """What is missing until it is as this version needs it, in a sentence; `None` if nothing is."""
        if self.at == self.head:
            return None
        newer = "" if self.known else ", and knows no such one: a newer Thaw upgraded it"
        return f"the schema is at revision {self.at}, this version of Thaw needs {self.head}{newer}"


def schema_of(session: Session) -> Schema:
    """Where the schema stands."""
    at = MigrationContext.configure(session.connection()).get_current_revision()
    script = ScriptDirectory.from_config(configuration())
    known = at is None or at in {each.revision for each in script.walk_revisions()}
    return Schema(at=at, head=str(script.get_current_head()), known=known)


def upgrade(db: Database) -> None:
    """Bring the schema to this version's. Safe when several processes start at once: one does it, the others wait.

    Raises `MisconfiguredError` for a schema of a newer Thaw.
    """
    with db.begin() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        schema = schema_of(session)
        if not schema.known:
            raise _unusable(schema, "Run the newer version of Thaw, or restore a backup from before its upgrade.")
        command.upgrade(configuration(connection), "head")


def ensure_schema(db: Database) -> None:
    """Make sure at the start of a process that the schema is this version's.

    SQLite is upgraded here: its one service was stopped for the new version. PostgreSQL may serve processes of an
    older one at this moment: an empty database is filled, any other is left to `thaw db upgrade`. Raises
    `MisconfiguredError`, also where PostgreSQL refuses the user or password, and SQLAlchemy's errors where it is away.
    """
    if db.engine.dialect.name == "sqlite":
        upgrade(db)
        return
    schema = _schema_on_server(db)
    if schema.at is None:
        upgrade(db)
    elif schema.missing:
        raise _unusable(schema, "Make a backup, stop what runs, then run `thaw db upgrade` once with this version.")


def _schema_on_server(db: Database) -> Schema:
    try:
        with db.read() as session:
            return schema_of(session)
    except OperationalError as error:
        if not postgresql.refuses(error):
            raise
        message = (
            f"PostgreSQL refuses to let Thaw in: {said(error)}. Check user and password, in THAW_DATABASE_URL or in "
            "PGUSER and PGPASSWORD, and the server's pg_hba.conf."
        )
        raise MisconfiguredError(message) from error


def is_out_of_room(error: DBAPIError) -> bool:
    """Whether SQLite found its disk full. By its text: not every library that brings SQLite tells the numbers."""
    return SQLITE_FULL in str(error.orig)


def said(error: DBAPIError) -> str:
    """What the database or its driver said, on one line, without the statement."""
    return " ".join(str(error.orig).split())


def _unusable(schema: Schema, advice: str) -> MisconfiguredError:
    return MisconfiguredError(f"The database cannot be used: {schema.missing}. {advice}")


def pending(session: Session) -> str | None:
    """What is missing until the schema is this version's, in a sentence; `None` if nothing is."""
    return schema_of(session).missing


def is_known(revision: str | None) -> bool:
    """Whether this version of Thaw has that revision of the schema."""
    return revision in {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}


def describe(session: Session) -> str:
    """The database in a few words: `SQLite 3.51.3`, `PostgreSQL 17.2`."""
    dialect = session.connection().dialect
    version = dialect.server_version_info or ()
    words = f"{NAMES.get(dialect.name, dialect.name)} {'.'.join(map(str, version))}"
    return words + (RARE_FAULT if has_rare_fault(session) else "")


def has_rare_fault(session: Session) -> bool:
    """Whether this is an SQLite whose WAL mode may, very rarely, damage the database."""
    dialect = session.connection().dialect
    return dialect.name == "sqlite" and not _is_repaired(dialect.server_version_info or ())


def _is_repaired(version: tuple[Any, ...]) -> bool:
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration; `connection` is where migrations run."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
