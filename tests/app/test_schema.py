"""PostgreSQL's schema is upgraded on purpose; SQLite's when its service starts."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import inspect, text

from app import schema
from app.domain.errors import MisconfiguredError, ServiceUnavailableError
from app.settings import Settings
from app.storage.database import Database, configuration, ensure_schema, pending

pytestmark = pytest.mark.service
FIRST = "0001"
_numbers = itertools.count()


@pytest.fixture
def empty(postgres: Any, tmp_path: Path) -> Settings:
    """Settings with an empty PostgreSQL database."""
    return Settings(data_dir=tmp_path, database_url=postgres.create_database(f"schema_{next(_numbers)}"))


@pytest.fixture
def old(empty: Settings) -> Settings:
    """The same, with the first version's schema."""
    with _opened(empty) as db, db.begin() as session:
        command.upgrade(configuration(session.connection()), FIRST)
    return empty


class _opened:  # noqa: N801 (a context manager)
    def __init__(self, settings: Settings) -> None:
        self.db = Database(settings.resolved_database_url())

    def __enter__(self) -> Database:
        return self.db

    def __exit__(self, *_: object) -> None:
        self.db.close()


def test_an_empty_postgresql_is_filled_at_the_first_start(empty: Settings) -> None:
    assert schema.current(empty).revision is None
    with _opened(empty) as db:
        ensure_schema(db)
    state = schema.current(empty)
    assert (state.revision, state.missing) == (state.needed, None)


def test_an_older_postgresql_is_left_alone_until_it_is_upgraded_on_purpose(old: Settings) -> None:
    with _opened(old) as db:
        with pytest.raises(MisconfiguredError, match=r"revision 0001.*backup.*`thaw db upgrade`"):
            ensure_schema(db)
        assert "finished_at" in {column["name"] for column in inspect(db.engine).get_columns("jobs")}
        with db.read() as session:
            assert pending(session)
        before, after = schema.upgrade(old)
        assert (before.revision, after.revision, after.missing) == (FIRST, after.needed, None)
        ensure_schema(db)


def test_an_older_sqlite_is_upgraded_at_the_start(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with _opened(settings) as db:
        with db.begin() as session:
            command.upgrade(configuration(session.connection()), FIRST)
        ensure_schema(db)
    assert schema.current(settings).missing is None


@pytest.fixture(params=["sqlite", "postgresql"])
def newer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A database that a version of the future has upgraded."""
    settings = Settings(data_dir=tmp_path) if request.param == "sqlite" else request.getfixturevalue("empty")
    schema.upgrade(settings)
    with _opened(settings) as db, db.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    yield settings
    assert schema.current(settings).revision == "9999", "it stays as it is"


def test_the_schema_of_a_newer_version_is_refused(newer: Settings) -> None:
    with _opened(newer) as db, pytest.raises(MisconfiguredError, match=r"newer Thaw.*9999|9999.*newer Thaw"):
        ensure_schema(db)
    with pytest.raises(MisconfiguredError, match="Run the newer version"):
        schema.upgrade(newer)


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    settings = Settings(database_url=f"postgresql+psycopg://thaw:hunter2@/thaw?host={tmp_path}")
    for call in (schema.current, schema.upgrade):
        with pytest.raises(ServiceUnavailableError, match=r"thaw:\*\*\*@.*does not answer") as caught:
            call(settings)
        assert "hunter2" not in caught.value.message
