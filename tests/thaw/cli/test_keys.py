"""`thaw keys`, beside a service that runs on the same database."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services import context
from app.settings import Settings
from app.storage.database import upgrade
from tests.thaw.cli.conftest import Run


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THAW_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def running(data_dir: Path) -> Iterator[TestClient]:
    """A service, asked without a key."""
    settings = Settings(data_dir=data_dir, api_key="the-admin-key", min_free_disk_bytes=0)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8420") as client:
        yield client


def test_a_key_opens_the_running_service_until_it_is_revoked(run: Run, running: TestClient) -> None:
    made = run("keys", "create", "alice")
    assert made.exit_code == 0, made.output
    token = made.stdout.removesuffix("\n")
    assert "shown only once" in made.stderr
    assert "'alice'" in made.stderr
    assert token not in made.stderr
    assert _asked(running, token) == 200
    listed = run("keys", "list")
    for word in ("ID", "NAME", "CREATED", "key-", "alice", "admin"):
        assert word in listed.stdout
    assert token not in listed.output
    gone = run("keys", "revoke", "alice")
    assert (gone.exit_code, "Revoked key-" in gone.stdout) == (0, True), gone.output
    assert _asked(running, token) == 401
    assert _asked(running, "the-admin-key") == 200


@pytest.mark.usefixtures("running")
def test_programs_get_json(run: Run) -> None:
    made = json.loads(run("keys", "create", "alice", "--json").stdout)
    key = made.pop("key")
    assert key.startswith("thaw_")
    assert made == {"id": made["id"], "object": "api_key", "name": "alice", "created_at": made["created_at"]}
    found = json.loads(run("keys", "list", "--limit", "1", "--json").stdout)
    assert found == {"object": "list", "data": [made], "has_more": True}
    found = json.loads(run("keys", "list", "--all", "--json").stdout)
    assert ([each["name"] for each in found["data"]], found["has_more"]) == (["alice", "admin"], False)
    assert json.loads(run("keys", "revoke", made["id"], "--json").stdout) == {**made, "revoked": True}


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("create", "a\nb"), 2, "printable"),
        (("create", "admin"), 2, "Choose another name"),
        (("create", "alice"), 1, "already"),
        (("revoke", "bob"), 1, "thaw keys list"),
        (("revoke", "admin"), 1, "THAW_API_KEY"),
    ],
)
def test_what_is_refused_is_said(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    run("keys", "create", "alice")
    result = run("keys", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_folder_that_is_no_services_is_left_alone(run: Run, data_dir: Path, tmp_path: Path) -> None:
    for words in (("list",), ("create", "alice"), ("list", "--data-dir", tmp_path / "other")):
        result = run("keys", *words)
        assert result.exit_code == 1
        assert "There is no database" in result.stderr
        assert "--data-dir" in result.stderr
    assert not data_dir.exists()
    assert not (tmp_path / "other").exists()


def test_the_folder_may_be_named(run: Run, tmp_path: Path) -> None:
    services = context.build(Settings(data_dir=tmp_path / "other"))
    upgrade(services.db)
    services.db.close()
    assert run("keys", "create", "alice", "--data-dir", tmp_path / "other").exit_code == 0
    assert "alice" in run("keys", "list", "--data-dir", tmp_path / "other").stdout


def test_tables_of_another_version_are_left_alone(run: Run, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "thaw.db").touch()
    result = run("keys", "list")
    assert result.exit_code == 1
    assert "thaw db upgrade" in result.stderr


def test_a_database_that_is_away_is_named_without_its_password(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THAW_DATABASE_URL", f"postgresql+psycopg://thaw:hunter2@/thaw?host={tmp_path}")
    result = run("keys", "create", "alice")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "hunter2" not in result.output


def test_a_database_that_takes_no_writes_is_said_so(run: Run, data_dir: Path, running: TestClient) -> None:
    with running.app.state.services.db.begin() as session:  # type: ignore[attr-defined]
        session.connection().exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON api_keys BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        )
    result = run("keys", "create", "alice")
    assert (result.exit_code, "disk I/O error" in result.stderr) == (1, True), result.output
    assert str(data_dir) in result.stderr


def test_without_the_extra_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda name: None if name == "alembic" else object())
    result = run("keys", "list")
    assert result.exit_code == 2
    assert "pip install 'thaw[api]'" in result.stderr


def _asked(client: TestClient, token: str) -> int:
    return client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code
