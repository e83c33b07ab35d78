"""A cache of folders, each under a key that says what is in it. All processes of a machine share it.

    cache/<key>/…      complete and never changed
    cache/<key>.lock   shared by those who use it, alone for who deletes it

The least recently used go when there are too many; one that somebody uses never goes. The kernel lets go of the
locks of a process that dies.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from worker.engine import locks


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

        `fill` gets an empty folder in `scratch`, which must lie on the same file system; what it raises goes
        through, and nothing is kept then.
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
            temporary.rename(folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            # Somebody else was faster, with the very same files.
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def shrink(self) -> None:
        """Delete the least recently used folders beyond the limit, unless somebody uses them."""
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
                if folder.is_dir():
                    yield folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir()), folder

    def _delete(self, folder: Path) -> bool:
        lock = locks.take(folder.with_suffix(".lock"), wait=False)
        if lock is None:
            return False
        try:
            shutil.rmtree(folder, ignore_errors=True)
            lock.remove()
        finally:
            lock.release()
        self._deleted(folder.name)
        return True
