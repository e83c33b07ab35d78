"""API keys: the admin's, made once and found again; named ones, made and revoked; stored as digests only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from app.domain.errors import AuthenticationError, ConflictError, InvalidRequestError, NotFoundError
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
    given = _with_key(services, tmp_path, "my-own-key")
    assert _token(given) == "my-own-key"
    assert keys.authenticate(services, "my-own-key").project == "default"
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, old)
    assert stat.S_IMODE(given.settings.api_key_file().stat().st_mode) == 0o600


def test_an_empty_key_counts_as_none(services: Services, tmp_path: Path) -> None:
    assert _token(_with_key(services, tmp_path, " ")).startswith("thaw_")
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, "")


def test_a_lost_database_takes_the_key_of_the_file(services: Services) -> None:
    token = _token(services)
    with services.db.begin() as session:
        session.delete(session.scalars(select(ApiKeyRow)).one())
    assert _token(services) == token
    assert keys.authenticate(services, token)


# === Named keys ===


def test_a_named_key_opens_the_same_project_as_somebody_else(services: Services) -> None:
    admin = keys.authenticate(services, _token(services))
    made, token = keys.create(services.db, "alice")
    principal = keys.authenticate(services, token)
    assert principal.project == admin.project
    assert principal.key_id == made.id != admin.key_id
    assert token not in str(keys.listed(services.db, limit=None))


def test_a_name_belongs_to_one_key_however_many_ask_at_once(services: Services) -> None:
    def create(_: int) -> bool:
        try:
            keys.create(services.db, "alice")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(8))) == 1
    assert _rows(services) == 1
    with pytest.raises(ConflictError, match="'alice' already"):
        keys.create(services.db, "alice")


@pytest.mark.parametrize(
    "name", ["", " ", "alice ", "a" * 65, "a\nb", "\x1b[31m", "\udcff", "admin", "Admin", "key-alice"]
)
def test_what_cannot_be_a_name_is_refused(services: Services, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"received \d+ characters|Choose another name"):
        keys.create(services.db, name)
    assert _rows(services) == 0


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_revoked_key_is_refused_at_once_and_its_name_is_free(services: Services, by: str) -> None:
    made, token = keys.create(services.db, "Alice Ünal")
    _, other = keys.create(services.db, "b" * 64)
    keys.authenticate(services, token)
    assert keys.revoke(services.db, getattr(made, by)) == made
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, token)
    with pytest.raises(NotFoundError, match="thaw keys list"):
        keys.revoke(services.db, getattr(made, by))
    assert keys.authenticate(services, other)
    again, token = keys.create(services.db, "Alice Ünal")
    assert keys.authenticate(services, token).key_id == again.id != made.id


def test_an_admin_key_is_not_revoked_by_name_or_id(services: Services) -> None:
    admin = _token(services)
    for which in ("admin", keys.authenticate(services, admin).key_id):
        with pytest.raises(ConflictError, match="THAW_API_KEY"):
            keys.revoke(services.db, which)
    assert keys.authenticate(services, admin)


def test_named_keys_outlive_starts_and_a_changed_admin_key(services: Services, tmp_path: Path) -> None:
    _, token = keys.create(services.db, "alice")
    before = keys.authenticate(services, token)
    for given in (None, "first-admin-key", "second-admin-key"):
        _token(_with_key(services, tmp_path, given))
        assert keys.authenticate(services, token) == before
    with pytest.raises(AuthenticationError):
        keys.authenticate(services, "first-admin-key")


def test_a_named_key_that_is_set_as_the_admin_key_becomes_it(services: Services, tmp_path: Path) -> None:
    made, token = keys.create(services.db, "alice")
    _token(_with_key(services, tmp_path, token))
    assert [(key.id, key.name) for key in keys.listed(services.db, limit=None)] == [(made.id, "admin")]
    with pytest.raises(ConflictError):
        keys.revoke(services.db, made.id)


def test_keys_are_listed_the_newest_first(services: Services) -> None:
    made = [keys.create(services.db, name)[0] for name in ("one", "two", "three")]
    assert keys.listed(services.db, limit=None) == made[::-1]
    assert keys.listed(services.db, limit=2) == [made[2], made[1]]


def _with_key(services: Services, folder: Path, key: str | None) -> Services:
    given = Settings(data_dir=folder, database_url=services.settings.database_url, api_key=key)
    return replace(services, settings=given)


def _token(services: Services) -> str:
    return keys.ensure_admin_key(services).read_text().strip()


def _rows(services: Services) -> int:
    with services.db.read() as session:
        return len(session.scalars(select(ApiKeyRow)).all())
