"""Left over bytes: what nothing refers to any more is deleted from the artifact store, sooner or later."""

from collections.abc import Iterable

import structlog

from app.domain.errors import ServiceUnavailableError
from app.services.context import Services

_log = structlog.get_logger(__name__)


def remove(services: Services, digests: Iterable[str]) -> bool:
    """Delete these blobs. False: the store does not answer, and some are still there.

    Never an error: what was to be done is done, and must not be done again because the store is away.
    """
    try:
        for sha256 in digests:
            services.store.remove(sha256)
    except ServiceUnavailableError as error:
        _log.warning("left over artifacts not deleted", reason=error.message)
        return False
    return True
