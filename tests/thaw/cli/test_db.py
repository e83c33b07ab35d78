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


def test_a_question_makes_no_database(run: Run, tmp_path: Path) -> None:
    asked = run("db", "current")
    assert asked.exit_code == 1
    assert "there is no such file yet" in asked.stdout
    assert not (tmp_path / "data").exists()


def test_the_folder_of_a_new_database_is_its_owners_alone(run: Run, tmp_path: Path) -> None:
    assert run("db", "upgrade").exit_code == 0
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


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


def test_a_file_that_is_no_database_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thaw.db").write_text("no database" * 100)
    result = run("db", "current")
    assert result.exit_code == 1
    assert "cannot be used. Make sure that THAW_DATABASE_URL names Thaw's" in " ".join(result.stderr.split())


def test_without_the_extra_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda name: None if name == "alembic" else object())
    result = run("db", "current")
    assert result.exit_code == 2
    assert "pip install 'thaw[api]'" in result.stderr
