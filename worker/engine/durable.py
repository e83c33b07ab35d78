"""Files that are replaced, never overwritten: temporary name, sync, rename, sync of the folder.

Keras' savers truncate the old file before they write the new one (measured: a full disk costs the old file
too), so they only ever write to the temporary name.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.errors import PlatformError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, to be written in the block; `path` appears after the block.

    If the block raises, nothing has happened to `path` and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Sync a folder of plain files that was put together under a temporary name, and give it its name."""
    for path in temporary.iterdir():
        _sync(path)
    _sync(temporary)
    temporary.rename(folder)
    _sync(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content by this text, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise `PlatformError` with code `storage_full` unless so many bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        detail = f"{needed_bytes / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free"
        raise storage_full(detail)


def has_room(folder: Path, needed_bytes: int) -> bool:
    """Whether so many bytes are free where `folder` is."""
    return shutil.disk_usage(folder).free >= needed_bytes


def storage_full(detail: str) -> PlatformError:
    """The error for a disk without room."""
    message = f"There is no room left for the job's files: {detail}. Free some space on the worker."
    return PlatformError(message, code="storage_full")


def lacks_room(error: BaseException | None) -> bool:
    """Whether a full disk is behind this error. HDF5, safetensors and TensorFlow say it in their text alone."""
    while error is not None:
        if getattr(error, "errno", None) in NO_ROOM or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # enough for `fsync`, also of a file that nobody may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
