"""A cache of folders, each under a key that says what is in it. All processes of a machine share it.

    cache/<key>/…               complete and never changed
    cache/<key>.lock            shared by those who use it, alone for who deletes it
    cache/.<key>.….deleted/…    on its way out; what a process that died has left of it goes with the next deletions

The least recently used go when there are too many; one that somebody uses never goes. The kernel lets go of the
locks of a process that dies.
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from worker.engine import durable, locks

_DELETED = ".deleted"


class FolderCache:
    """Folders by their keys."""

    def __init__(self, folder: Path, *, max_bytes: int, deleted: Callable[[str], None] = lambda _key: None) -> None:
        """`deleted` is told the key of each folder that had to go."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._deleted = deleted

    @property
    def max_bytes(self) -> int:
        """What all folders together may take, once nobody uses them."""
        return self._max_bytes

    @contextlib.contextmanager
    def folder(self, key: str, fill: Callable[[Path], None], *, scratch: Path) -> Iterator[Path]:
        """The folder of this key, which stays as it is while it is held; `fill` writes it where it is missing.

        `fill` gets an empty folder in `scratch`, which must lie on the same file system, and writes plain files there;
        what it raises goes through, and nothing is kept then.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self._folder / key
        try:
            with locks.held(folder.with_suffix(".lock"), shared=True):
                if not folder.is_dir():
                    self._fill(folder, fill, scratch)
                os.utime(folder)
                yield folder
        finally:
            self.shrink()

    def _fill(self, folder: Path, fill: Callable[[Path], None], scratch: Path) -> None:
        temporary = Path(tempfile.mkdtemp(dir=scratch))
        try:
            fill(temporary)
            durable.publish_folder(temporary, folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            # Somebody else was faster, with the very same files.
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def shrink(self) -> None:
        """Delete the least recently used folders beyond the limit, unless somebody uses them; and remains of others."""
        for deleted in self._folder.glob(f".*{_DELETED}"):  # two that do so at once do not disturb each other
            shutil.rmtree(deleted, ignore_errors=True)
        folders = sorted(self._entries(), key=lambda entry: entry[0])
        excess = sum(size for _, size, _ in folders) - self._max_bytes
        for _, size, folder in folders:
            if excess <= 0:
                return
            if self._delete(folder):
                excess -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for folder in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if folder.is_dir() and folder.suffix != _DELETED:
                    yield folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir()), folder

    def _delete(self, folder: Path) -> bool:
        lock = locks.take(folder.with_suffix(".lock"), wait=False)
        if lock is None:
            return False
        deleted = self._folder / f".{folder.name}.{secrets.token_hex(4)}{_DELETED}"
        try:
            # At once: under its key, whoever comes next would take for complete what a process that dies here leaves.
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                folder.rename(deleted)
            lock.remove()
        except OSError as error:
            if error.errno not in durable.NO_ROOM:
                raise
            return False  # no room for another name: others, deleted before or after it, make some
        finally:
            lock.release()
        shutil.rmtree(deleted, ignore_errors=True)
        self._deleted(folder.name)
        return True
