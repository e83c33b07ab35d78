"""Room on the disks where this worker writes: without it, every job that it took would be set aside within seconds."""

import shutil

import structlog

from app.domain.worker import WorkerCapabilities
from app.services.context import Services
from worker.engine.foldercache import FolderCache
from worker.pairing import Pairing

_log = structlog.get_logger(__name__)


def refusal(services: Services) -> str | None:
    """Why this worker has no room for a training, even without its caches, or `None`.

    How much a job needs is not known beforehand: it may find that this was too little.
    """
    if _shortage(services):
        clear_caches(services)
    return _shortage(services)


def announced(capabilities: WorkerCapabilities, services: Services, pairing: Pairing) -> WorkerCapabilities:
    """What a worker that trains says about itself now.

    Its queues stay: jobs for a GPU should not go to processors because a disk is full, or not mounted, for an hour.
    """
    because = capabilities.refuses_training or pairing.refusal() or refusal(services)
    return capabilities.model_copy(update={"refuses_training": because})


def clear_caches(services: Services) -> None:
    """Delete what no job uses of what this machine keeps only to be faster."""
    for folder in (services.settings.features_dir(), services.settings.cache_dir()):
        if folder.is_dir():
            FolderCache(folder, max_bytes=0, deleted=_tell_of_deletion).shrink()


def _shortage(services: Services) -> str | None:
    least = services.settings.min_free_disk_bytes
    try:
        # Where attempts work, and where blobs are written first: often one disk.
        free = min(shutil.disk_usage(services.settings.work_dir()).free, services.store.free_bytes())
    except OSError as error:
        return f"a folder that it writes to cannot be used: {error}"
    if free > least:
        return None
    return f"its disk has {free:,} bytes free, and {least:,} are kept free (THAW_MIN_FREE_DISK_BYTES)"


def _tell_of_deletion(key: str) -> None:
    _log.warning("cache entry deleted to make room", key=key)
