"""`thaw config`, `thaw up`, `thaw demo`."""

import json
import sys
from types import ModuleType

import pytest

from tests.thaw.cli.conftest import Run


def test_config_prints_every_setting_once_with_meaning_and_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.settings import Settings

    monkeypatch.setenv("THAW_PORT", "9999")
    settings = json.loads(run("config", "--json").stdout)["settings"]
    names = [setting["env"] for setting in settings]
    assert {f"THAW_{name.upper()}" for name in Settings.model_fields} | {"THAW_URL", "THAW_API_KEY_FILE"} == set(names)
    assert len(names) == len(set(names))
    assert all(setting["meaning"] for setting in settings)
    assert {setting["env"]: setting["value"] for setting in settings}["THAW_PORT"] == 9999


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_config_shows_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    monkeypatch.setenv("THAW_API_KEY", "thaw_hidden")
    monkeypatch.setenv("THAW_DATABASE_URL", "postgresql+psycopg://me:hidden@host/db")
    monkeypatch.setenv("THAW_REDIS_URL", "redis://:hidden@host")
    monkeypatch.setenv("THAW_S3_SECRET_KEY", "hidden")
    result = run("config", *options)
    assert result.exit_code == 0
    assert "hidden" not in result.output
    assert result.stdout.count("**") >= 3


def test_config_names_a_setting_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_PORT", "many")
    result = run("config")
    assert result.exit_code == 2
    assert "port" in result.stderr


def test_config_without_the_server_prints_the_clients_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda _: None)
    result = run("config")
    assert result.exit_code == 0
    assert "THAW_URL" in result.stdout
    assert "pip install 'thaw[api]'" in result.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_without_the_extra_the_error_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("thaw.cli.service.find_spec", lambda name: None if name == "tensorflow" else object())
    result = run(command)
    assert result.exit_code == 2
    assert "pip install 'thaw[worker]'" in result.stderr
    assert "tensorflow" in result.stderr


def test_up_and_demo_hand_over_their_options_and_the_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def main(**options: object) -> int:
        seen.append(options)
        return 1

    monkeypatch.setattr("thaw.cli.service.find_spec", lambda _: object())
    for name in ("app.standalone", "thaw.demo"):
        fake = ModuleType(name)
        fake.__dict__["main"] = main
        monkeypatch.setitem(sys.modules, name, fake)
    assert run("up", "--port", 0, "--host", "127.0.0.1", "--quiet").exit_code == 1
    assert run("demo", "--data", "fashion_mnist", "--seeds", "42,1").exit_code == 1
    assert seen == [
        {"data_dir": None, "host": "127.0.0.1", "port": 0, "quiet": True},
        {"data": "fashion_mnist", "data_dir": None, "seeds": [42, 1]},
    ]


def test_seeds_must_be_numbers(run: Run) -> None:
    assert run("demo", "--seeds", "a,b").exit_code == 2
