"""`thaw doctor`, `backup`, `restore`, `workers list`."""

import json
from pathlib import Path

import pytest

from app.backup import Summary
from app.doctor.finding import Finding, ok, problem, warning
from app.services import context
from app.settings import Settings
from app.storage.database import upgrade
from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Of a service that has run once."""
    services = context.build(Settings(data_dir=tmp_path / "data", min_free_disk_bytes=0))
    upgrade(services.db)
    services.db.close()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("last", "code"), [(warning("workers", "none", "Start one."), 0), (problem("broker", "away", "Start it."), 1)]
)
def test_the_doctor_prints_a_table_and_fails_for_problems_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, last: Finding, code: int
) -> None:
    seen: list[Settings] = []

    def examine(settings: Settings) -> list[Finding]:
        seen.append(settings)
        return [ok("database", "SQLite 3.53.4"), last]

    monkeypatch.setattr("app.doctor.examine", examine)
    result = run("doctor", "--data-dir", "/srv/thaw")
    assert result.exit_code == code
    assert seen[0].data_dir == Path("/srv/thaw")
    for word in ("CHECK", "database", "SQLite 3.53.4", last.check, last.verdict, last.found, last.advice):
        assert word in result.stdout
    told = json.loads(run("doctor", "--json").stdout)
    assert told["healthy"] == (code == 0)
    assert told["checks"] == [
        {"check": "database", "status": "ok", "found": "SQLite 3.53.4", "advice": None},
        {"check": last.check, "status": last.verdict, "found": last.found, "advice": last.advice},
    ]


def test_a_folder_goes_into_a_file_and_comes_back(run: Run, data_dir: Path, tmp_path: Path) -> None:
    result = run("backup", "b.tar", "--data-dir", data_dir)
    assert (result.exit_code, "0 blobs" in result.stdout) == (0, True), result.output
    again = run("backup", "b.tar", "--data-dir", data_dir)
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert run("backup", "b.tar", "--data-dir", data_dir, "--force").exit_code == 0
    told = json.loads(run("restore", "b.tar", "--data-dir", tmp_path / "new", "--json").stdout)
    assert told == {"path": str(tmp_path / "new"), "blobs": 0, "bytes": told["bytes"], "lost": [], "superseded": []}
    assert (tmp_path / "new" / "thaw.db").is_file()
    full = run("restore", "b.tar", "--data-dir", tmp_path / "new")
    assert (full.exit_code, "is not empty" in full.stderr) == (1, True)


@pytest.mark.parametrize(("lacking", "code"), [("lost", 1), ("superseded", 0)])
def test_what_was_superseded_is_told_and_what_was_lost_is_no_success(
    run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, code: int
) -> None:
    summary = Summary(path="b.tar", blobs=3, bytes=100, **{"lost": [], "superseded": [], lacking: ["ab12"]})
    monkeypatch.setattr("app.backup.take", lambda *_, **__: summary)
    result = run("backup", "b.tar", "--data-dir", data_dir)
    told = "1 blobs were missing" if code else "1 blobs that checkpoints had were superseded"
    assert (result.exit_code, told in result.stderr) == (code, True), result.output


def test_a_file_that_is_no_backup_is_refused_in_words(run: Run, tmp_path: Path) -> None:
    Path("b.tar").write_bytes(b"no archive")
    result = run("restore", "b.tar", "--data-dir", tmp_path / "new")
    assert result.exit_code == 1
    assert "cannot be restored" in result.stderr
    assert run("restore", "nothing.tar").exit_code == 2


@pytest.mark.parametrize("words", [("doctor",), ("backup", "b.tar")])
def test_without_the_server_the_error_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda name: None if name == "sqlalchemy" else object())
    result = run(*words)
    assert result.exit_code == 2
    assert "pip install 'thaw[api]'" in result.stderr


def test_workers_are_listed_with_what_they_do(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, object]] = []
    monkeypatch.setitem(service.capabilities, "workers", found)
    assert "There are none" in run("workers", "list").stderr
    found += [
        {"id": "worker-1", "queues": ["cpu", "prepare"], "devices": ["cpu"], "keras": "3.15.1", "live": True},
        {"id": "worker-2", "queues": [], "devices": ["NVIDIA H200"], "live": True, "draining": True},
    ]
    result = run("workers", "list")
    assert result.exit_code == 0
    assert "cpu, prepare" in result.stdout
    assert "draining" in result.stdout
    assert json.loads(run("workers", "list", "--json").stdout)["data"] == found
