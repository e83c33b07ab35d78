"""Bundles: files of the artifact store as folders on this machine, and back.

Canonical models and datasets are kept in a cache that all workers of the machine share, one folder for each content:
a job on the same source or data fetches nothing.
"""

import contextlib
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from app.domain.artifacts import Artifact, Bundle
from app.domain.errors import PlatformError
from app.storage.artifacts import ArtifactStore, Check, go_on
from worker.engine.foldercache import FolderCache

_log = structlog.get_logger(__name__)


class BundleCache:
    """Folders with the content of bundles."""

    def __init__(self, folder: Path, store: ArtifactStore, *, max_bytes: int) -> None:
        self._folders = FolderCache(folder, max_bytes=max_bytes, deleted=_tell_of_deletion)
        self._store = store

    @contextlib.contextmanager
    def folder(self, bundle: Bundle, *, scratch: Path, check: Check) -> Iterator[Path]:
        """The bundle's files in a folder that stays as it is while it is held. Raises what store and `check` raise.

        `scratch`: a folder of the caller's, on the same file system, in which it is put together. `check` is called
        again and again while it is fetched.
        """

        def fill(empty: Path) -> None:
            for artifact in bundle:
                self._store.fetch(artifact.sha256, empty / artifact.name, check=check)

        with self._folders.folder(_key(bundle), fill, scratch=scratch) as folder:
            yield folder


def _tell_of_deletion(key: str) -> None:
    _log.info("cache entry deleted", key=key)


def _key(bundle: Bundle) -> str:
    lines = sorted(f"{artifact.name} {artifact.sha256}" for artifact in bundle)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def upload(run: Path, name: str, store: ArtifactStore, *, check: Check) -> Bundle:
    """Put all files of the folder `name` in `run` into the store; `check` is called again and again and may raise.

    Raises `PlatformError` if there are none, or anything but plain files.
    """
    folder = inside(run, name)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        message = f"The process said that it was done, but left nothing in {name}."
        raise PlatformError(message, code="result_missing")
    bundle: Bundle = []
    for path in paths:
        check()
        bundle.append(upload_file(run, f"{name}/{path.name}", store, check=check))
    return bundle


def upload_file(run: Path, name: str, store: ArtifactStore, *, check: Check = go_on) -> Artifact:
    """Put the plain file `name` in `run` into the store, under the last part of its name."""
    path = inside(run, name)
    if not stat.S_ISREG(path.lstat().st_mode):
        message = f"The process left something that is no plain file: {path.name}."
        raise PlatformError(message, code="result_unusable")
    return Artifact(name=path.name, **store.put_file(path, check=check).model_dump())


def inside(run: Path, name: str) -> Path:
    """The path of `name` in `run`. A process that somebody has taken over must not publish what lies elsewhere."""
    path = run.resolve() / name
    if path.resolve() != path or run.resolve() not in path.parents:
        message = f"The process named a file that is not its own: {name[:200]}."
        raise PlatformError(message, code="result_unusable")
    return path
