"""`thaw db`."""

import json
from pathlib import Path

import pytest

from tests.thaw.cli.conftest import Run


@pytest.fixture(autouse=True)
def _data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THAW_DATA_DIR", str(tmp_path / "data"))


def test_a_schema_is_upgraded_once(run: Run) -> None:
    assert run("db", "current").exit_code == 1
    first = run("db", "upgrade")
    assert first.exit_code == 0
    assert "what this version of Thaw needs" in first.stdout
    assert "nothing to do" not in first.stderr
    again = run("db", "upgrade")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "nothing to do" in again.stderr
    assert run("db", "current").exit_code == 0


def test_programs_get_json(run: Run) -> None:
    found = json.loads(run("db", "current", "--json").stdout)
    assert found["revision"] is None
    assert found["needed"] in found["missing"]
    assert json.loads(run("db", "upgrade", "--json").stdout)["revision"] == found["needed"]


def test_a_database_that_cannot_be_used_is_an_error_without_its_password(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THAW_DATABASE_URL", f"postgresql+psycopg://thaw:hunter2@/thaw?host={tmp_path}")
    result = run("db", "upgrade")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "hunter2" not in result.output


def test_without_the_extra_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda name: None if name == "alembic" else object())
    result = run("db", "current")
    assert result.exit_code == 2
    assert "pip install 'thaw[api]'" in result.stderr
