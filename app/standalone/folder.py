"""The data folder while a service runs on it: one service each, the note of what runs, what an earlier one left.

run/lock            held while `thaw up` lives; says who holds it; empty after a clean end
run/service.json    {"url", "pid", "api_key_file"}: how clients on this machine find the service
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import psutil

from app.domain.errors import ConflictError, ServiceUnavailableError

MARK = "THAW_STANDALONE"
"""Environment variable of everything that a service starts: the data folder that it serves."""

LOCK = "lock"
"""The file in the run folder that is held."""
_LEFTOVER_GRACE_SECONDS = 9.0


class ServiceNote(TypedDict):
    """What `run/service.json` says."""

    url: str
    pid: int
    api_key_file: str


def make_private(folder: Path) -> None:
    """Make a folder, readable by its owner only; one that exists stays as it is."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"The folder {folder} cannot be made ({error.strerror}); choose another with --data-dir."
        raise ServiceUnavailableError(message) from error


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[bool]:
    """Hold the data folder; yields whether an earlier service ended without cleaning up.

    Raises `ConflictError` with the URL of the service that runs on it, `ServiceUnavailableError` if nothing can be
    written there.
    """
    with (run_dir / LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(_who_runs(run_dir)) from None
        lock.seek(0)
        unclean = bool(lock.read())
        _enter(lock.fileno(), run_dir)
        try:
            yield unclean
        finally:
            _rewrite(lock.fileno(), "")


def _enter(descriptor: int, run_dir: Path) -> None:
    try:
        _rewrite(descriptor, str(os.getpid()))
    except OSError as error:
        message = f"{run_dir / LOCK} cannot be written ({error.strerror}). Make room on its disk, then start again."
        raise ServiceUnavailableError(message) from error


def _rewrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


def _who_runs(run_dir: Path) -> str:
    note = read_note(run_dir)
    pid = (run_dir / LOCK).read_text(encoding="utf-8") or "unknown"
    where = f"at {note['url']}" if note else "and is just starting or ending"
    return (
        f"Thaw already runs on {run_dir.parent} {where} (process {pid}). Use it, stop it, or choose another folder "
        f"with --data-dir."
    )


def read_note(run_dir: Path) -> ServiceNote | None:
    """What runs on this folder; `None` if nothing says so."""
    try:
        note: ServiceNote = json.loads((run_dir / "service.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return note


def write_note(run_dir: Path, note: ServiceNote) -> None:
    """Say what runs here: replaced as a whole, readable by its owner only."""
    temporary = run_dir / f"service.json.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run_dir / "service.json")


def remove_note(run_dir: Path) -> None:
    """Nothing runs here any more."""
    (run_dir / "service.json").unlink(missing_ok=True)


def stop_leftovers(data_dir: Path, *, grace_seconds: float = _LEFTOVER_GRACE_SECONDS) -> list[str]:
    """End what an earlier service on this folder left running; returns it in words.

    Only processes that carry our mark with this very folder in their environment are touched: a process id
    from a file may belong to somebody else by now. Call it while holding the folder.
    """
    found = _marked(data_dir)
    for process in found:
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(found, timeout=grace_seconds)
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, timeout=1)
    return [f"process {process.pid}" for process in found]


def _marked(data_dir: Path) -> list[psutil.Process]:
    me = psutil.Process()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    return [process for process in psutil.process_iter() if process.pid not in mine and _serves(process, data_dir)]


def _serves(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(data_dir)
    except (psutil.Error, OSError):
        return False  # somebody else's, or gone


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()
