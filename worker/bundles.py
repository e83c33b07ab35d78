"""Bundles: files of the artifact store as folders on this machine, and back.

Canonical models and datasets are kept in a cache that all workers of the machine share, one folder for each content:
a job on the same source or data fetches nothing. The least recently used go when there are too many; one that a
job uses never goes.

    cache/<sha256 of names and contents>/…      complete and never changed
    cache/<sha256>.lock                         shared by those who use it, alone for who deletes it
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from app.domain.artifacts import Artifact, Bundle
from app.domain.errors import PlatformError
from app.storage.artifacts import ArtifactStore
from worker import locks

_log = structlog.get_logger(__name__)


class BundleCache:
    """Folders with the content of bundles."""

    def __init__(self, folder: Path, store: ArtifactStore, *, max_bytes: int) -> None:
        self._folder = folder
        self._store = store
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def folder(self, bundle: Bundle, *, scratch: Path) -> Iterator[Path]:
        """The bundle's files in a folder that stays as it is while it is held. Raises what the store raises.

        `scratch`: a folder of the caller's, on the same file system, in which it is put together.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self._folder / _key(bundle)
        try:
            with locks.held(folder.with_suffix(".lock"), shared=True):
                if not folder.is_dir():
                    self._fill(folder, bundle, scratch)
                os.utime(folder)
                yield folder
        finally:
            self._shrink()

    def _fill(self, folder: Path, bundle: Bundle, scratch: Path) -> None:
        temporary = Path(tempfile.mkdtemp(dir=scratch))
        for artifact in bundle:
            self._store.fetch(artifact.sha256, temporary / artifact.name)
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            shutil.rmtree(temporary)  # somebody else was faster, with the very same files

    def _shrink(self) -> None:
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
        _log.info("cache entry deleted", key=folder.name)
        return True


def _key(bundle: Bundle) -> str:
    lines = sorted(f"{artifact.name} {artifact.sha256}" for artifact in bundle)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def upload(run: Path, name: str, store: ArtifactStore, *, check: Callable[[], None]) -> Bundle:
    """Put all files of the folder `name` in `run` into the store; `check` is called before each and may raise.

    Raises `PlatformError` if there are none, or anything but plain files.
    """
    folder = _inside(run, name)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        message = f"The process said that it was done, but left nothing in {name}."
        raise PlatformError(message, code="result_missing")
    bundle: Bundle = []
    for path in paths:
        check()
        bundle.append(upload_file(run, f"{name}/{path.name}", store))
    return bundle


def upload_file(run: Path, name: str, store: ArtifactStore) -> Artifact:
    """Put the plain file `name` in `run` into the store, under the last part of its name."""
    path = _inside(run, name)
    if not stat.S_ISREG(path.lstat().st_mode):
        message = f"The process left something that is no plain file: {path.name}."
        raise PlatformError(message, code="result_unusable")
    return Artifact(name=path.name, **store.put_file(path).model_dump())


def _inside(run: Path, name: str) -> Path:
    """The path of `name` in `run`. A process that somebody has taken over must not publish what lies elsewhere."""
    path = run.resolve() / name
    if path.resolve() != path or run.resolve() not in path.parents:
        message = f"The process named a file that is not its own: {name[:200]}."
        raise PlatformError(message, code="result_unusable")
    return path
