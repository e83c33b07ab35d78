"""What holds for all commands: options before the command, errors, exit codes, JSON."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from typer.testing import Result

import thaw
from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService, problem

LISTS = (("models", "list"), ("datasets", "list"), ("jobs", "list"))


def only_json(result: Result) -> object:
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", LISTS)
def test_json_may_be_asked_for_before_and_behind_the_command(run: Run, command: tuple[str, str]) -> None:
    for words in (("--json", *command), (*command, "--json")):
        result = run(*words)
        assert result.exit_code == 0
        assert only_json(result) == {"object": "list", "data": [], "has_more": False}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(401, "invalid_api_key", "The API key is not valid."), 4),
        (problem(404, "not_found", "There is no such model."), 1),
        (problem(422, "invalid_request", "It is wrong."), 1),
        (problem(500, "internal_error", "It broke."), 1),
        (httpx2.ConnectError("refused"), 3),
        (httpx2.Response(200, content=b"<html>", headers={"content-type": "text/html"}), 3),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    service: FakeService, run: Run, answer: httpx2.Response | Exception, code: int
) -> None:
    service.answers = [answer] * 9
    result = run("models", "show", "model-1")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def test_an_error_in_json_has_every_wrong_field(service: FakeService, run: Run) -> None:
    errors = [{"pointer": "/seed", "code": "ge", "message": "At least 0", "allowed": None}]
    service.answers = [problem(422, "invalid_request", "It is wrong.", errors=errors)]
    result = run("jobs", "show", "ftjob-1", "--json")
    assert result.exit_code == 1
    assert only_json(result) == {
        "error": {
            "type": "InvalidRequestError",
            "message": "It is wrong.",
            "status": 422,
            "code": "invalid_request",
            "request_id": "req-1",
            "errors": errors,
        }
    }


def test_no_service_found_is_exit_code_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THAW_URL")
    result = run("jobs", "list")
    assert result.exit_code == 3
    assert "thaw up" in result.stderr


@pytest.mark.parametrize("words", [("jobs", "lst"), ("jobs", "show"), ("jobs", "list", "--status", "odd"), ("--odd",)])
def test_a_wrong_command_is_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_url_and_key_file_may_be_given_as_options(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("thaw_secret")
    result = run("--url", "http://other.test", "--api-key-file", tmp_path / "key", "jobs", "list")
    assert result.exit_code == 0
    assert service.requests[0].url.host == "other.test"


def test_text_from_the_service_cannot_command_the_terminal(service: FakeService, run: Run) -> None:
    service.add_model(name="evil\x1b[2J[bold]name[/bold]\r\n\x07")
    result = run("models", "list")
    assert "\x1b" not in result.stdout
    assert "evil\N{REPLACEMENT CHARACTER}[2J[bold]name[/bold]" in result.stdout


def test_errors_from_the_service_cannot_command_the_terminal(service: FakeService, run: Run) -> None:
    service.answers = [problem(404, "not_found", "No \x1b[31mmodel [red]x[/red]")]
    stderr = run("models", "show", "model-1").stderr
    assert "\x1b" not in stderr
    assert "[red]x[/red]" in stderr


def test_the_version_is_printed(run: Run) -> None:
    assert re.fullmatch(r"thaw \d+[.+]\S+\n", run("--version").stdout)
    assert run("version").stdout == f"thaw {thaw.__version__}\n"
    assert only_json(run("version", "--json")) == {"version": thaw.__version__}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("up",),
        ("demo",),
        ("plan",),
        ("config",),
        ("version",),
        *(("models", name) for name in ("push", "list", "show", "pull")),
        *(("datasets", name) for name in ("push", "list", "show")),
        *(("jobs", name) for name in ("create", "list", "show", "watch", "cancel", "events", "download")),
    ],
)
def test_every_command_explains_itself_with_an_example(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    expected = "Exit codes: 0 done" if not words else f"thaw {' '.join(words)}"
    assert expected in result.stdout
    assert not words or "Example:" in result.stdout or words == ("version",)


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "thaw", "--version"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == f"thaw {thaw.__version__}\n"
