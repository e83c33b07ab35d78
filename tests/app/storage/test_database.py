"""Transactions, time, and the schema's history, on both databases."""

import sqlite3
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, create_engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.storage import postgresql
from app.storage.database import (
    Database,
    _is_repaired,
    describe,
    insert_or_ignore,
    now,
    pending,
    schema_of,
    sqlite_library,
    time_of,
    upgrade,
)
from app.storage.tables import METADATA, ProjectRow, WorkerRow
from tests.servers import Postgres

SECRET = "hunter2"

# === Connections ===


def test_a_transaction_that_hangs_lets_go_of_its_rows(
    postgres: Postgres, postgresql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.2)
    hanging = Database(postgres.url("thaw"))
    statement = select(ProjectRow).with_for_update()
    with hanging.engine.connect() as stopped:
        stopped.execute(statement)
        with postgresql_database.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '10s'"))
            assert session.scalars(statement).all()
        with pytest.raises(OperationalError, match="idle-in-transaction timeout"):
            stopped.execute(statement)
    hanging.close()


def test_a_url_may_say_otherwise_what_a_connection_waits_for(postgres: Postgres) -> None:
    engine = Database(f"{postgres.url('postgres')}&keepalives_idle=77").engine
    with engine.connect() as connection:
        said = connection.connection.driver_connection.info.get_parameters()
        assert (said["keepalives_idle"], said["tcp_user_timeout"]) == ("77", "20000")
    engine.dispose()


def test_a_standby_is_a_database_that_is_away(postgres: Postgres) -> None:
    standby = Database(f"{postgres.url('thaw')}&options=-c%20default_transaction_read_only%3Don")
    with standby.read() as session:
        connected = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with pytest.raises(OperationalError, match="read-only transaction"), standby.begin() as session:
        session.execute(ProjectRow.__table__.delete())
    with standby.read() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() != connected
    standby.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET status = 'unheard_of', metadata = :secret",
        "UPDATE jobs SET project = :secret",
        "UPDATE jobs SET no_such_column = :secret",
    ],
)
def test_an_error_tells_nothing_that_a_row_has(db: Database, world: Any, change: str) -> None:
    world.job(metadata={"said": SECRET})
    with pytest.raises(DBAPIError) as raised, db.begin() as session:
        session.execute(text(change), {"secret": f'"{SECRET}"'})
    assert SECRET not in "".join(traceback.format_exception(raised.value))


# === Migrations ===


def test_migrations_build_what_the_tables_say(db: Database) -> None:
    with db.begin() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_migrations_build_the_same_checks_as_the_tables(db: Database) -> None:
    """Alembic does not compare CHECK constraints."""
    found = inspect(db.engine)
    for table in METADATA.sorted_tables:
        wanted = {check.name: str(check.sqltext) for check in table.constraints if isinstance(check, CheckConstraint)}
        there = {check["name"]: check["sqltext"] for check in found.get_check_constraints(table.name)}
        assert there.keys() == wanted.keys()
        if db.engine.dialect.name == "sqlite":  # PostgreSQL keeps them in its own words
            assert there == wanted


def test_an_upgraded_schema_has_nothing_pending_and_may_be_upgraded_again(db: Database) -> None:
    upgrade(db)
    with db.read() as session:
        assert pending(session) is None


def test_an_empty_database_says_what_it_lacks(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'new.db'}")
    with db.read() as session:
        assert f"needs {schema_of(session).head}" in (pending(session) or "")
    db.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_that_start_at_once_upgrade_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'new.db'}"
    else:
        url = request.getfixturevalue("postgres").create_database("new")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_upgrade, [url] * 4)) == [None] * 4


def _upgrade(url: str) -> str | None:
    db = Database(url)
    upgrade(db)
    with db.read() as session:
        missing = pending(session)
    db.close()
    return missing


def test_downgrading_removes_every_table(tmp_path: Path) -> None:
    from alembic import command

    from app.storage.database import configuration

    db = Database(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(db)
    with db.begin() as session:
        command.downgrade(configuration(session.connection()), "base")
        assert inspect(session.connection()).get_table_names() == ["alembic_version"]
    db.close()


# === Transactions ===


def test_what_fails_leaves_nothing(db: Database) -> None:
    with pytest.raises(IntegrityError), db.begin() as session:
        session.add_all([ProjectRow(id="p", created_at=0), ProjectRow(id="default", created_at=0)])
    with db.read() as session:
        assert session.get(ProjectRow, "p") is None


def test_a_row_that_is_there_stays_as_it_is(db: Database) -> None:
    with db.begin() as session:
        assert insert_or_ignore(session, ProjectRow, {"id": "p", "created_at": 1.0})
        assert not insert_or_ignore(session, ProjectRow, {"id": "p", "created_at": 2.0})
        assert session.scalars(select(ProjectRow.created_at).where(ProjectRow.id == "p")).one() == 1.0


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
def test_writers_of_many_processes_never_find_the_database_locked(db: Database) -> None:
    """Each reads and then writes what follows from it: with a plain BEGIN, SQLite refuses most of them."""
    with db.begin() as session:
        session.add(WorkerRow(id="w", seen_at=0.0, capabilities={}))
    url = db.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-W", "error", "-c", COUNT_UP, url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=REPOSITORY) for _ in range(2)]
    for process in processes:
        assert process.communicate()[1] == b""
    with db.read() as session:
        assert session.scalars(select(WorkerRow.seen_at)).one() == 2 * 4 * 50


REPOSITORY = Path(__file__).resolve().parents[3]

COUNT_UP = """
import sys
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import select
from app.storage.database import Database
from app.storage.tables import WorkerRow

db = Database(sys.argv[1])

def count_up(_):
    for _ in range(50):
        with db.begin() as session:
            session.scalars(select(WorkerRow).with_for_update()).one().seen_at += 1

with ThreadPoolExecutor(4) as threads:
    list(threads.map(count_up, range(4)))
db.close()
"""


def test_sqlite_is_set_up_to_keep_what_it_has_committed(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'folder' / 'new.db'}")
    with db.read() as session:
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
        for pragma, value in wanted.items():
            assert session.execute(text(f"PRAGMA {pragma}")).scalar_one() == value
    db.close()


def test_a_reader_sees_one_state_and_holds_up_no_writer(db: Database) -> None:
    with db.read() as reader:
        assert reader.scalars(select(ProjectRow.id)).all() == ["default"]
        with db.begin() as writer:
            writer.add(ProjectRow(id="p", created_at=0))
        if db.engine.dialect.name == "sqlite":
            assert reader.scalars(select(ProjectRow.id)).all() == ["default"]


# === Time ===


def test_time_is_unix_seconds_and_moves_within_a_transaction(db: Database) -> None:
    before = time.time()
    with db.begin() as session:
        first = time_of(session)
        assert before - 1 < first < time.time() + 1
        deadline = time.monotonic() + 60
        while time_of(session) <= first:
            assert time.monotonic() < deadline
        assert session.scalars(select(ProjectRow.id).where(now() > first)).all() == ["default"]


@pytest.mark.parametrize(
    ("version", "repaired"),
    [
        ((3, 40, 1), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 52, 0), True),
    ],
)
def test_a_rare_fault_of_some_versions_of_sqlite_is_known(version: tuple[int, ...], repaired: bool) -> None:
    assert _is_repaired(version) is repaired


# === Constraints ===


def test_a_python_whose_sqlite_has_the_fault_gets_another_one_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sqlite3.dbapi2, "sqlite_version_info", (3, 51, 3))
    assert sqlite_library() is sqlite3.dbapi2
    monkeypatch.setattr(sqlite3.dbapi2, "sqlite_version_info", (3, 40, 1))
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)
    assert sqlite_library() is sqlite3.dbapi2
    monkeypatch.undo()
    other = pytest.importorskip("pysqlite3.dbapi2")
    monkeypatch.setattr(sqlite3.dbapi2, "sqlite_version_info", (3, 40, 1))
    assert sqlite_library() is other
    database = Database(f"sqlite:///{tmp_path / 'thaw.db'}")
    with database.read() as session:
        # In a process where another package has brought an SQLite of its own, the words go on.
        assert describe(session).startswith(f"SQLite {other.sqlite_version}")
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET status = 'running'",
        "UPDATE jobs SET lease_expires_at = 5",
        "UPDATE jobs SET status = 'succeeded', finished_at = 5",
        "UPDATE jobs SET status = 'failed', finished_at = 5",
        "UPDATE jobs SET status = 'cancelled'",
        "UPDATE jobs SET status = 'unheard_of'",
        "UPDATE models SET status = 'validating'",
        "UPDATE models SET lease_expires_at = 5",
        "UPDATE datasets SET info = NULL",
        "UPDATE jobs SET project = 'nobody'",
    ],
)
def test_the_database_refuses_a_row_that_cannot_be(db: Database, world: Any, change: str) -> None:
    world.job()
    with pytest.raises(IntegrityError), db.begin() as session:
        session.execute(text(change))


def test_an_old_connection_that_died_is_replaced(postgresql_database: Database) -> None:
    with postgresql_database.read() as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    killer = create_engine(postgresql_database.engine.url)
    with killer.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    killer.dispose()
    with postgresql_database.read() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid
