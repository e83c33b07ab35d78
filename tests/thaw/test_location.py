"""How the client finds the service and its key."""

import json
from pathlib import Path

import pytest

from thaw.errors import ServiceNotFoundError, ThawClientError
from thaw.location import find


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a service that `thaw up` runs."""
    folder = tmp_path / "data"
    (folder / "run").mkdir(parents=True)
    (folder / "api-key").write_text("thaw_local\n")
    note = {"url": "http://127.0.0.1:8420", "pid": 1, "api_key_file": str(folder / "api-key")}
    (folder / "run" / "service.json").write_text(json.dumps(note))
    monkeypatch.setenv("THAW_DATA_DIR", str(folder))
    return folder


@pytest.mark.usefixtures("running")
def test_the_service_on_this_machine_is_found_with_its_key() -> None:
    location = find()
    assert (location.url, location.api_key) == ("http://127.0.0.1:8420", "thaw_local")


def test_its_folder_may_be_at_home(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(running.parent))
    monkeypatch.setenv("THAW_DATA_DIR", "~/data")
    assert find().api_key == "thaw_local"
    monkeypatch.setenv("THAW_DATA_DIR", "~nobody-of-this-name/data")
    with pytest.raises(ThawClientError, match="the name of nobody who has a home here"):
        find()


@pytest.mark.usefixtures("running")
def test_arguments_win_over_the_environment_and_the_environment_over_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THAW_URL", "http://from.environment")
    monkeypatch.setenv("THAW_API_KEY", "from-environment")
    assert find().url == "http://from.environment"
    assert find().api_key == "from-environment"
    assert find("http://argument", "argument").url == "http://argument"
    assert find("http://argument", "argument").api_key == "argument"


@pytest.mark.usefixtures("running")
def test_the_local_key_is_not_sent_to_another_service() -> None:
    assert find("https://elsewhere.example").api_key is None
    assert find("http://127.0.0.1:8420/").api_key == "thaw_local"


def test_a_key_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(" thaw_filed\n")
    monkeypatch.setenv("THAW_API_KEY_FILE", str(tmp_path / "key"))
    assert find("http://thaw").api_key == "thaw_filed"
    (tmp_path / "other").write_text("other")
    assert find("http://thaw", api_key_file=tmp_path / "other").api_key == "other"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ThawClientError, match="key"):
        find("http://thaw", api_key_file=path)


def test_without_any_trace_of_a_service_the_error_says_how_to_start_one() -> None:
    with pytest.raises(ServiceNotFoundError, match=r"No Thaw service found.*thaw up"):
        find()


@pytest.mark.parametrize("note", ["{", "[]", "{}"])
def test_a_damaged_note_is_an_error_that_names_it(running: Path, note: str) -> None:
    (running / "run" / "service.json").write_text(note)
    with pytest.raises(ServiceNotFoundError, match=r"service\.json"):
        find()


def test_an_address_for_openai_clients_is_understood() -> None:
    assert find("http://thaw:8420/v1/").url == "http://thaw:8420"


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ThawClientError, match="http://"):
        find("localhost:8420")


def test_a_location_does_not_show_its_key() -> None:
    assert "secret" not in repr(find("http://thaw", "secret"))
