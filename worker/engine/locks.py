"""File locks between the workers of one machine. The kernel lets go of them when their holder dies, however it dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Lock:
    """An open, locked file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def remove(self) -> None:
        """Delete the file; whoever waits for it makes a new one."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def take(path: Path, *, shared: bool = False, wait: bool = True) -> Lock | None:
    """Lock a file, which is made if it is missing. `None` if somebody else holds it and `wait` is false."""
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_still(path, descriptor):
            return Lock(path, descriptor)
        os.close(descriptor)  # its last holder deleted it while we waited


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[Lock]:
    """Hold a lock, waiting for it."""
    lock = take(path, shared=shared)
    assert lock is not None, "waiting always gives one"
    try:
        yield lock
    finally:
        lock.release()
