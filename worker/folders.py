"""Folders of attempts: where one attempt works. Gone when it ends, and when the worker that had it is dead.

work/<id>-<attempt>/         input/  run/  tmp/  output.log
work/<id>-<attempt>.lock     held while the attempt lives
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog

from worker.engine import locks

_log = structlog.get_logger(__name__)


@contextlib.contextmanager
def attempt_folder(work_dir: Path, name: str) -> Iterator[Path]:
    """A fresh folder for one attempt, deleted at its end."""
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locks.held(work_dir / f"{name}.lock") as lock:
        folder = work_dir / name
        _delete(folder)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _delete(folder)
            lock.remove()


def remove_stale(work_dir: Path) -> list[str]:
    """Delete the folders of attempts whose worker is dead; returns their names. Those of living workers stay."""
    if not work_dir.is_dir():
        return []
    names = {path.name.removesuffix(".lock") for path in work_dir.iterdir()}
    return [name for name in sorted(names) if _remove_if_stale(work_dir, name)]


def _remove_if_stale(work_dir: Path, name: str) -> bool:
    lock = locks.take(work_dir / f"{name}.lock", wait=False)
    if lock is None:
        return False
    try:
        _delete(work_dir / name)
        lock.remove()
    finally:
        lock.release()
    return True


def _delete(folder: Path) -> None:
    def tell(_function: object, path: str, reason: object) -> None:
        # What cannot be deleted costs room and nothing else; the next start of a worker tries again.
        _log.warning("cannot delete", path=path, reason=str(reason))

    if folder.exists():
        shutil.rmtree(folder, onerror=tell)
