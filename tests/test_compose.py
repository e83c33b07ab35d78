"""The compose file, against the compose specification and what Thaw needs of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[1] / "docker-compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]


def validated(file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_is_what_the_compose_specification_says() -> None:
    done = validated(FILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_specification_does_not_know_would_be_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("init: true", "initially: true"), encoding="utf-8")
    done = validated(wrong)
    assert done.returncode == 1
    assert "'initially' was unexpected" in done.stdout


def test_postgres_is_healthy_when_it_is_reached_by_network() -> None:
    """While the image makes a database it answers on its socket alone: `schema` would be refused for good."""
    kind, command = SERVICES["postgres"]["healthcheck"]["test"]
    assert (kind, command.split()) == ("CMD-SHELL", ["pg_isready", "--host", "127.0.0.1", "--username", "thaw"])
    assert SERVICES["schema"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", sorted(name for name, service in SERVICES.items() if "build" in service))
def test_what_runs_thaw_has_an_init_process_and_no_password_in_a_url(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert "POSTGRES_PASSWORD" not in service["environment"]["THAW_DATABASE_URL"]
    assert service["environment"]["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
