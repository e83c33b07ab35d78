"""What the pages and the example say is true."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import thaw
import thaw.client
from tests.thaw.conftest import KEY, REPORT, URL, FakeService, problem
from thaw.cli.program import app

REPOSITORY = Path(__file__).resolve().parents[2]
CLI_PAGE = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
CLIENT_PAGE = (REPOSITORY / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLE = REPOSITORY / "examples" / "digits_job.yaml"
OPERATIONS_PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
PAGES = [*CLI_PAGE.splitlines(), *OPERATIONS_PAGE.splitlines()]
COMMANDS = [line[2:] for line in PAGES if line.startswith("$ thaw ")]
PROGRAMS = re.findall(r"```python\n(.*?)```", CLIENT_PAGE, re.DOTALL)


@pytest.fixture
def digits(service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pauses: list[float]) -> FakeService:
    """A service in which jobs succeed at once, and the files that the pages talk about."""
    del pauses
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAW_URL", URL)
    monkeypatch.setenv("THAW_API_KEY", KEY)
    connected = functools.partial(thaw.client.Client, transport=service.transport)
    monkeypatch.setattr("thaw.client.Client", connected)
    for name in ("digits_0_to_7.keras", "digits_8_and_9.npz"):
        Path(name).write_bytes(b"digits")
    service.contents["onnx"] = b"for onnx"
    add_job = service.add_job

    def succeed(**asked: object) -> str:
        job = add_job(**{**asked, "status": "succeeded", "report": REPORT})
        service.happen(job, "completed", "The job succeeded.")
        service.artifacts[job] = {"model.keras": b"weights"}
        return job

    monkeypatch.setattr(service, "add_job", succeed)
    return service


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_on_the_page_is_one(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed to the last option, without being run."""
    monkeypatch.chdir(tmp_path)
    for name in ("digits_0_to_7.keras", "digits_8_and_9.npz", "thaw-monday.tar"):
        Path(name).write_bytes(b"digits")
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while words:
        context = command.make_context("thaw", words)
        words = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
        command = command.commands[words[0]] if words else command
        words = words[1:]


def test_the_page_names_every_command() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"`thaw {name}" in CLI_PAGE
        for inner in getattr(command, "commands", ()):
            assert re.search(rf"`(thaw {name} )?{inner}\b", CLI_PAGE), f"thaw {name} {inner}"


def test_the_first_program_on_the_page_runs(digits: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PROGRAMS[0], "docs/client.md", "exec"), {})  # noqa: S102 (our own page)
    shown = capsys.readouterr().out
    assert "all 16 0.0001 ['norm', 'dense_2']" in shown
    assert "The job succeeded." in shown
    assert "0.980, 95 % interval 0.900 to 0.990" in shown
    assert Path("model.keras").read_bytes() == b"weights"
    assert Path("model.onnx").read_bytes() == b"for onnx"
    assert "onnx succeeded 1.5e-06 None" in shown
    assert next(iter(digits.jobs.values()))["metadata"] == {"team": "digits"}


def test_the_second_program_on_the_page_prints_every_wrong_field(
    digits: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [{"pointer": "/batch_size", "code": "ge", "message": "At least 1"}]
    digits.answers = [problem(422, "invalid_request", "It is wrong.", errors=errors)]
    exec(compile(PROGRAMS[1], "docs/client.md", "exec"), {})  # noqa: S102 (our own page)
    assert capsys.readouterr().out == "/batch_size At least 1 None\n"


def test_the_page_names_every_call_and_every_error() -> None:
    with thaw.Client(URL, KEY) as client:
        for resource in ("files", "models", "datasets", "jobs"):
            row = next(line for line in CLIENT_PAGE.splitlines() if line.startswith(f"| `thaw.{resource}`"))
            calls = {name for name in dir(getattr(client, resource)) if not name.startswith("_")}
            assert set(re.findall(r"`(\w+)`", row)) == calls
    assert all(f"`{name}`" in CLIENT_PAGE for name in thaw.__all__ if name.endswith("Error"))


def test_the_example_is_the_recipe_that_a_job_gets_which_says_nothing() -> None:
    from app.domain.job import JobRequest
    from app.domain.spec import resolve

    told = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    silent = JobRequest(model=told["model"], training_file=told["training_file"], seed=told["seed"])
    expected = resolve(silent, seed=silent.seed or 0)
    assert expected.preset == "two_phase"
    assert resolve(JobRequest(**told), seed=told["seed"]) == expected.model_copy(update={"preset": None})
