"""API keys made beside the service, on both databases."""

import pytest

from app import keys
from app.domain.errors import AuthenticationError
from app.services.context import Services
from app.services.keys import authenticate


def test_with_the_settings_alone_a_key_is_made_listed_and_revoked(services: Services) -> None:
    made, token = keys.create(services.settings, "alice")
    assert authenticate(services, token).key_id == made.id
    assert keys.listed(services.settings, limit=None) == [made]
    assert keys.revoke(services.settings, "alice") == made
    with pytest.raises(AuthenticationError):
        authenticate(services, token)
