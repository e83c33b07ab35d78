"""What a connection to PostgreSQL takes from the environment, and a server that lets nobody in."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from app.domain.errors import MisconfiguredError
from app.storage import postgresql
from app.storage.database import Database, ensure_schema
from tests.servers import Postgres

PASSWORD = "hunter2-of-the-database"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def guarded(postgres: Postgres) -> Iterator[str]:
    """The URL of a database, without a password, for the one user whom the server asks for one."""
    owner = Database(postgres.create_database("guarded"))
    rules = postgres.folder / "data" / "pg_hba.conf"
    trusting = rules.read_text(encoding="utf-8")
    with owner.begin() as session:
        session.execute(text(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'"))
    url = postgres.url("guarded").replace("thaw@", "guarded@")
    try:
        rules.write_text(f"local all guarded scram-sha-256\n{trusting}", encoding="utf-8")
        _reload(owner)
        deadline = time.monotonic() + 10
        while _is_let_in(url):
            assert time.monotonic() < deadline, "the server still asks for no password"
            time.sleep(0.02)
        yield url
    finally:
        rules.write_text(trusting, encoding="utf-8")
        _reload(owner)
        owner.close()


def _reload(owner: Database) -> None:
    with owner.read() as session:
        session.execute(text("SELECT pg_reload_conf()"))


def _is_let_in(url: str) -> bool:
    database = Database(url)
    try:
        database.engine.connect().close()
    except OperationalError:
        return False
    else:
        return True
    finally:
        database.close()


def options(database: Database) -> dict[str, str]:
    """What a new connection was made with, defaults left out."""
    with database.engine.connect() as connection:
        found: dict[str, str] = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    database.close()
    return found


def test_what_variables_said_when_the_engine_was_made_holds_after_they_are_gone(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = str(tmp_path / "ca.pem")
    variables = {
        "PGPASSWORD": PASSWORD,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": certificate,
        "PGCONNECT_TIMEOUT": "7",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    database = Database(guarded)
    for name in variables:
        monkeypatch.delenv(name)
    said = options(database)
    assert (said["sslmode"], said["sslrootcert"], said["connect_timeout"]) == ("verify-full", certificate, "7")
    assert said["tcp_user_timeout"] == "20000"


def test_what_the_url_says_wins_over_variables(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGUSER": "nobody", "PGDATABASE": "none", "PGHOST": "/nowhere", "PGSSLMODE": "require"}.items():
        monkeypatch.setenv(name, value)
    said = options(Database(f"{postgres.url('postgres')}&sslmode=allow"))
    assert (said["user"], said["dbname"], said["sslmode"]) == ("thaw", "postgres", "allow")


def test_a_service_is_looked_up_when_the_engine_is_made(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services.conf"
    services.write_text(f"[ours]\nhost={postgres.folder}\nuser=thaw\ndbname=postgres\nsslmode=allow\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "ours")
    monkeypatch.setenv("PGSSLMODE", "require")
    database = Database("postgresql+psycopg://")
    monkeypatch.delenv("PGSERVICE")
    said = options(database)
    assert (said["user"], said["dbname"], said["sslmode"]) == ("thaw", "postgres", "allow"), "as libpq has it"


def arguments(url: str) -> dict[str, str]:
    """What is added to that of the URL, without what we always add."""
    made = postgresql._arguments(make_url(url))
    return {name: str(value) for name, value in made.items() if name not in postgresql.CONNECTION}


def test_a_service_that_the_url_names_gives_the_user(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services.conf"
    services.write_text(
        f"[ours]\nhost={postgres.folder}\nuser=thaw\ndbname=postgres\n[other]\nhost=/nowhere\nuser=nobody\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    said = options(Database("postgresql+psycopg://?service=ours"))
    assert (said["user"], said["dbname"]) == ("thaw", "postgres")
    monkeypatch.setenv("PGSERVICE", "other")
    said = options(Database("postgresql+psycopg://?service=ours"))
    assert (said["user"], said["dbname"]) == ("thaw", "postgres"), "as libpq has it"
    monkeypatch.setenv("PGUSER", "somebody")
    assert arguments("postgresql+psycopg://?service=ours") == {"user": "somebody"}


@pytest.mark.parametrize(
    ("hosts", "port"),
    [("host=a:5433", None), ("host=a:5433&host=b:5434", None), ("host=a&host=b", "7000"), ("host=a", "7000")],
)
def test_ports_of_the_url_win_over_variables(monkeypatch: pytest.MonkeyPatch, hosts: str, port: str | None) -> None:
    monkeypatch.setenv("PGPORT", "7000")
    monkeypatch.setenv("PGHOST", "/nowhere")
    made = arguments(f"postgresql+psycopg://thaw@/thaw?{hosts}")
    assert made.get("port") == port
    assert "host" not in made


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_server_that_refuses_ends_the_start_with_a_sentence(
    guarded: str, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password:
        monkeypatch.setenv("PGPASSWORD", password)
    database = Database(guarded)
    with pytest.raises(MisconfiguredError, match=r"^PostgreSQL refuses to let Thaw in: .*password.*PGPASSWORD"):
        ensure_schema(database)
    database.close()


def test_an_unknown_user_is_refused(postgres: Postgres) -> None:
    database = Database(postgres.url("postgres").replace("thaw@", "stranger@"))
    with pytest.raises(MisconfiguredError, match='role "stranger" does not exist'):
        ensure_schema(database)
    database.close()


def test_a_server_that_is_not_there_is_no_refusal(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://thaw@/thaw?host={tmp_path}")
    with pytest.raises(OperationalError) as raised:
        ensure_schema(database)
    assert not postgresql.refuses(raised.value)
    database.close()


def test_a_worker_that_is_refused_says_so_and_ends(guarded: str, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("THAW_")},
        "THAW_DATA_DIR": str(tmp_path / "data"),
        "THAW_DATABASE_URL": guarded,
        "THAW_REDIS_URL": f"redis+socket://{tmp_path / 'none'}",
        "PGPASSWORD": "wrong",
    }
    command = [sys.executable, "-m", "worker", "--queues", "prepare"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert 'password authentication failed for user "guarded"' in done.stderr.splitlines()[-1]
    assert "wrong" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stricter_default_of_the_server_does_not_make_errors_of_waits(postgres: Postgres) -> None:
    url = f"{postgres.create_database('strict')}&options=-c%20default_transaction_isolation%3Dserializable"
    database = Database(url)
    try:
        with database.read() as session:
            assert session.scalar(text("SHOW default_transaction_isolation")) == "serializable"
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
        with database.snapshot() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        with database.begin() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
    finally:
        database.close()
