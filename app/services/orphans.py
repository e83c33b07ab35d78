"""Orphans: bytes in the artifact store that nothing refers to.

A worker died between its upload and the row, or a row was deleted and its bytes were not.

    list what is old  ->  strike out what some row refers to  ->  delete the rest, unless it was written again meanwhile

Nothing is deleted that is younger than `orphan_grace_seconds`: what is uploaded now gets its row within seconds. Equal
bytes are stored once: an upload of what is there already makes it young again, in the store, so that it cannot be
deleted between that and its row. Any number of processes may do this at once.

What a writer that was killed left has no digest yet: temporary files that are a day old go on the same occasion.
"""

import time

import structlog

from app.services import pairing
from app.services.context import Services
from app.storage import blobs
from app.storage.database import time_of

_log = structlog.get_logger(__name__)


def remove_orphans(services: Services) -> int:
    """Delete them all; how many there were.

    Where not one blob of the store is referred to, nothing is deleted: that is the wrong database, or the wrong store.
    Only the digests of what is old are kept meanwhile: there may be millions of blobs.
    """
    services.store.remove_stale()
    with services.db.read() as session:  # of a clock that is wrong the earlier time counts
        before = min(time.time(), time_of(session)) - services.settings.orphan_grace_seconds
    orphans = {blob.sha256 for blob in services.store.list_blobs() if blob.modified_at < before}
    if not orphans:
        return 0
    old, young = len(orphans), set[str]()
    with services.db.snapshot() as session:
        for sha256, _ in blobs.each_referred(session):
            orphans.discard(sha256)
            if len(orphans) == old and len(young) < pairing.ASKED_FOR:
                young.add(sha256)
    if len(orphans) == old and not pairing.any_there(services.store, young):
        _log.warning("nothing refers to any artifact in the store, so none is deleted", artifacts=old)
        return 0
    removed = sum(services.store.remove_older(sha256, than=before) for sha256 in sorted(orphans))
    if removed:
        _log.info("artifacts deleted that nothing refers to", artifacts=removed)
    return removed
