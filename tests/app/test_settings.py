"""Settings come from arguments, the environment and files with secrets."""

import importlib
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.domain.errors import MisconfiguredError
from app.settings import Settings


def test_a_secret_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql+psycopg://thaw@db/thaw\n")
    monkeypatch.setenv("THAW_DATABASE_URL_FILE", str(secret))
    assert Settings().resolved_database_url() == "postgresql+psycopg://thaw@db/thaw"


def test_programs_say_in_a_sentence_which_file_of_a_secret_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_DATABASE_URL_FILE", str(tmp_path / "nothing"))
    with pytest.raises(
        MisconfiguredError, match=r"cannot be used: THAW_DATABASE_URL_FILE names .*/nothing, which cann"
    ):
        Settings.read()
    (tmp_path / "nothing").write_bytes(b"\xff")
    with pytest.raises(MisconfiguredError, match="which is no text in UTF-8"):
        Settings.read()


@pytest.mark.parametrize("module", ["app.main", "app.standalone", "worker.__main__"])
def test_every_program_ends_with_a_sentence_where_a_setting_is_wrong(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THAW_PORT", "hunter2")
    main = importlib.import_module(module).main
    monkeypatch.setattr(f"{main.__module__}.configure_logging", lambda **_: None, raising=False)
    arguments = {"app.main": {"arguments": []}, "worker.__main__": {"arguments": ["--queues", "cpu"]}}
    try:
        code = main(**arguments.get(module, {}))
    except SystemExit as left:
        code = left.code
    assert code == 1
    assert "A setting cannot be used: 1 validation error for Settings\nport" in capsys.readouterr().err


def test_the_environment_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://from-file")
    monkeypatch.setenv("THAW_REDIS_URL_FILE", str(secret))
    monkeypatch.setenv("THAW_REDIS_URL", "redis://from-environment")
    url = Settings().redis_url
    assert url is not None
    assert url.get_secret_value() == "redis://from-environment"


def test_secrets_are_not_shown() -> None:
    assert "hunter2" not in repr(Settings(api_key="hunter2"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heartbeat_seconds": "1000"}, "THAW_HEARTBEAT_SECONDS must be shorter"),
        ({"port": "hunter2"}, "port\n"),
        ({"s3_endpoint": "s3://user:hunter2@store"}, "s3_endpoint\n"),
    ],
)
def test_a_refusal_names_the_setting_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], says: str
) -> None:
    for name, value in {"api_key": "hunter2", **wrong}.items():
        monkeypatch.setenv(f"THAW_{name.upper()}", value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["hunter2", "postgres://u:hunter2@h/db", "mysql://u:hunter2@h/db", "/srv/hunter2.db"])
def test_a_database_of_another_kind_is_refused_without_showing_its_url(url: str) -> None:
    with pytest.raises(ValidationError, match=r"postgresql\+psycopg://user@host/database, or sqlite:////") as raised:
        Settings(database_url=SecretStr(url))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"database_url": "postgresql+psycopg://u:hunter2@host:hunter2/db"},
        {"database_url": "postgresql+psycopg://u:p@hunter2@host/db"},
        {"redis_url": "redis://:hunter2/ss@host:6379/0"},
        {"redis_url": "redis://:[hunter2@host:6379/0"},
    ],
)
def test_a_url_that_cannot_be_read_is_refused_with_what_to_do_and_not_shown(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"its port a number, with @ / .* percent-encoded") as raised:
        Settings(**{name: SecretStr(url) for name, url in wrong.items()})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "right",
    [
        {"database_url": "postgresql+psycopg://u:p%40ss%2F@[::1]:5432/db?host=a:5433&host=b:5434"},
        {"database_url": "postgresql+psycopg://u@/db?host=/run/postgresql"},
        {"redis_url": "rediss://:p%40ss%2F@host:6380/0?ssl_cert_reqs=none"},
        {"redis_url": "redis+socket:///run/broker.sock"},
    ],
)
def test_urls_as_the_documentation_has_them_are_taken(right: dict[str, str]) -> None:
    Settings(**{name: SecretStr(url) for name, url in right.items()})


def test_without_a_database_url_everything_is_in_the_data_folder(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).resolved_database_url() == f"sqlite:///{tmp_path}/thaw.db"


def test_a_data_folder_may_be_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("THAW_DATA_DIR", "~/thaw")
    assert Settings().data_dir == tmp_path / "thaw"
    with pytest.raises(ValidationError, match="the name of nobody who has a home here"):
        Settings(data_dir=Path("~nobody-of-this-name/thaw"))


@pytest.mark.parametrize("times", [{"lease_seconds": 4}, {"fence_seconds": 5}, {"heartbeat_seconds": 20}])
def test_a_heartbeat_that_comes_too_late_is_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="THAW_HEARTBEAT_SECONDS must be shorter than THAW_FENCE_SECONDS and"):
        Settings(**times)


def test_every_setting_is_described() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"THAW_{name.upper()}", "")
    assert Settings() == Settings.model_construct(**Settings().model_dump())
    assert Settings().s3_endpoint is None
    assert Settings().s3_region == "us-east-1"


@pytest.mark.parametrize("page", ["docker-compose.yml", "docs/machines.md", "docs/uploads.md"])
def test_pages_name_settings_that_there_are(page: str) -> None:
    text = (Path(__file__).resolve().parents[2] / page).read_text(encoding="utf-8")
    named = {name.removesuffix("_FILE") for name in re.findall(r"\bTHAW_[A-Z0-9_]*[A-Z0-9]\b", text)}
    assert named
    assert named <= {f"THAW_{name.upper()}" for name in Settings.model_fields}
