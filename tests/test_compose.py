"""The compose file, against the compose specification, and what it names against what there is."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.queue import QUEUES
from worker.__main__ import _parser

FILE = Path(__file__).resolve().parents[1] / "docker-compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
BUILT = sorted(name for name, service in SERVICES.items() if "build" in service)
WORKERS = [name for name in BUILT if SERVICES[name]["build"]["target"].startswith("worker")]


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


@pytest.mark.parametrize("name", BUILT)
def test_what_runs_thaw_has_an_init_process_and_no_password_in_a_url(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert "POSTGRES_PASSWORD" not in service["environment"]["THAW_DATABASE_URL"]
    assert service["environment"]["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_is_a_stage_of_the_dockerfile(name: str) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", FILE.with_name("Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert SERVICES[name]["build"]["target"] in stages


def test_workers_serve_every_queue_once_by_a_command_that_a_worker_takes() -> None:
    served = []
    for name in WORKERS:
        program, *arguments = SERVICES[name]["command"][2:]
        assert (SERVICES[name]["command"][:2], program) == (["python", "-m"], "worker")
        served += _parser().parse_args(arguments).queues
    assert sorted(served) == sorted(QUEUES)


def test_the_schema_is_upgraded_before_anything_uses_it() -> None:
    assert SERVICES["schema"]["command"] == ["thaw", "db", "upgrade"]
    for name in ["api", *WORKERS]:
        assert SERVICES[name]["depends_on"]["schema"] == {"condition": "service_completed_successfully"}
