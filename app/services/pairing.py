"""Whether artifact store and database belong together: a mistyped bucket or a folder that is not mounted looks empty.

A store that has none of several blobs that rows refer to is taken for the wrong one. Where rows refer to nothing, as in
a new installation, any store will do.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from app.domain.errors import PlatformError, ServiceUnavailableError
from app.services.context import Services
from app.storage import blobs
from app.storage.artifacts import MISSING, ArtifactStore

ASKED_FOR = 10
"""So many blobs that rows refer to are looked for, at most."""


def any_there(store: ArtifactStore, digests: Iterable[str]) -> bool:
    """Whether the store has one of these blobs. Raises `ServiceUnavailableError`."""
    return any(store.exists(sha256) for sha256 in digests)


def refusal(services: Services) -> str | None:
    """Why this store cannot be that of this database, or `None`. Raises what both raise that do not answer."""
    with services.db.read() as session:
        asked = {sha256 for sha256, _ in islice(blobs.each_referred(session), ASKED_FOR)}
    if not asked or any_there(services.store, asked):
        return None
    return (
        f"its artifact store has none of {len(asked)} artifacts that the database refers to and that were looked for: "
        "it is the wrong store, or not mounted (THAW_ARTIFACTS_URL, THAW_DATA_DIR)"
    )


@contextmanager
def doubted(services: Services) -> Iterator[None]:
    """A blob that is missing because the whole store is another one is no fault of what needs it.

    Raises `ServiceUnavailableError` then, as if the store did not answer.
    """
    try:
        yield
    except PlatformError as error:
        because = refusal(services) if error.work_code == MISSING else None
        if because is None:
            raise
        message = f"An artifact is missing on this worker: {because}."
        raise ServiceUnavailableError(message) from error
