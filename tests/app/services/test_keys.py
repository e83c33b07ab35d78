"""The admin key: made once, found again, stored as a digest only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from app.domain.errors import AuthenticationError
from app.services import keys
from app.services.context import Services
from app.settings import Settings
from app.storage.tables import ApiKeyRow


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(services: Services) -> None:
    path = keys.ensure_admin_key(services)
    assert path == services.settings.api_key_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text().strip()
    assert token.startswith("thaw_")
    assert len(token) == 5 + 43
    assert keys.authenticate(services, token).project == "default"


def test_another_start_finds_the_same_key(services: Services) -> None:
    first = _token(services)
    principal = keys.authenticate(services, first)
    assert _token(services) == first
    assert keys.authenticate(services, first) == principal


def test_processes_that_start_at_once_agree_on_one_key(services: Services) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: _token(services), range(8)))) == 1
    assert _rows(services) == 1
    assert [path.name for path in services.settings.data_dir.glob(".api-key*")] == []


def test_the_key_itself_is_not_in_the_database(services: Services) -> None:
    token = _token(services)
    with services.db.read() as session:
        row = session.scalars(select(ApiKeyRow)).one()
        assert token not in str(vars(row))
        assert len(row.sha256) == 64


@pytest.mark.parametrize("wrong", ["", "thaw_", "thaw_" + "A" * 43, "\udcff", "\x00", "ü"])
def test_a_wrong_key_is_refused_and_not_repeated(services: Services, wrong: str) -> None:
    keys.ensure_admin_key(services)
    with pytest.raises(AuthenticationError) as caught:
        keys.authenticate(services, wrong)
    assert len(wrong) < 6 or wrong not in caught.value.message


def test_a_lost_file_is_followed_by_another_key_and_the_old_one_stays_valid(services: Services) -> None:
    old = _token(services)
    services.settings.api_key_file().unlink()
    new = _token(services)
    assert new != old
    assert keys.authenticate(services, old).project == keys.authenticate(services, new).project


def test_a_key_that_is_set_is_the_only_admin_key(services: Services, tmp_path: Path) -> None:
    old = _token(services)
    given = Settings(data_dir=tmp_path, database_url=services.settings.database_url, api_key="my-own-key")
    assert _token(replace(services, settings=given)) == "my-own-key"
    assert keys.authenticate(services, "my-own-key").project == "default"
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, old)
    assert stat.S_IMODE(given.api_key_file().stat().st_mode) == 0o600


def test_an_empty_key_counts_as_none(services: Services, tmp_path: Path) -> None:
    empty = Settings(data_dir=tmp_path, database_url=services.settings.database_url, api_key=" ")
    assert _token(replace(services, settings=empty)).startswith("thaw_")
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, "")


def test_a_lost_database_takes_the_key_of_the_file(services: Services) -> None:
    token = _token(services)
    with services.db.begin() as session:
        session.delete(session.scalars(select(ApiKeyRow)).one())
    assert _token(services) == token
    assert keys.authenticate(services, token)


def _token(services: Services) -> str:
    return keys.ensure_admin_key(services).read_text().strip()


def _rows(services: Services) -> int:
    with services.db.read() as session:
        return len(session.scalars(select(ApiKeyRow)).all())
