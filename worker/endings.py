"""How a child ended, in the words of a `Failure`: whose fault, which code, what to do.

it said so                       the engine's own error
an error nobody expected         platform   internal_error
no room on the disk              platform   storage_full
out of memory                    capacity   out_of_memory
a store or database that refuses platform   misconfigured
crashed by a signal              platform   training_process_crashed; checking a file: user, it is the file's doing
killed, but not by us            platform   training_process_killed; checking a file: no failure, it is checked again
ended without a word             platform   training_process_ended
did nothing for too long         platform   training_process_stalled
"""

import errno
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.errors import (
    CapacityError,
    DataError,
    Failure,
    MisconfiguredError,
    PlatformError,
    SourceError,
    StorageFullError,
    ThawError,
    WorkError,
)

if TYPE_CHECKING:  # this runs in children too, which have no business with Celery
    from app.queue import TaskName

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TAIL_BYTES = 64 * 1024
"""A crash's list of extension modules alone may have 10 KiB."""
_TAIL_LINES = 6
_FATAL = "Fatal Python error"
"""With it `faulthandler` begins; what was printed before is why, the frames after it are where."""
_MEMORY_SIGNS = ("std::bad_alloc", "MemoryError", "Cannot allocate memory", "OOM when allocating")
_FORKSERVER_GONE = 255
"""What `multiprocessing` says of a child whose forkserver died, which takes its children along."""
_CRASHES = {
    "train": "The training process crashed",
    "register": "Opening the model file crashed the process that checks it",
    "validate": "Reading the data file crashed the process that checks it",
}


# === Errors ===


def failure_of(error: BaseException) -> Failure:
    """What is stored about an exception: its own words where they are ours."""
    if isinstance(error, WorkError):
        return error.failure()
    chain = list(_chain(error))
    if any(_storage_full(link) for link in chain):
        return PlatformError(
            "There is no room left on the disk of the machine that worked on this. Free some, then try again.",
            code="storage_full",
        ).failure()
    if any(_memory_full(link) for link in chain):
        return CapacityError(
            f"Memory ran out ({_short(error)}). Use a smaller batch size, smaller inputs or a larger machine."
        ).failure()
    if isinstance(error, MisconfiguredError):
        return PlatformError(error.message, code=error.code).failure()
    code = error.code if isinstance(error, ThawError) else "internal_error"
    return PlatformError(f"Something unexpected happened: {_short(error)}", code=code).failure()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _storage_full(error: BaseException) -> bool:
    return (
        isinstance(error, StorageFullError)
        or (isinstance(error, OSError) and error.errno in _FULL)
        # TensorFlow and HDF5 tell the errno in words only.
        or "No space left on device" in str(error)
    )


def _memory_full(error: BaseException) -> bool:
    # By its name: this runs where there is no TensorFlow.
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


# === Exits ===


@dataclass(frozen=True)
class Exit:
    """A child that ended without telling its outcome."""

    task: "TaskName"
    code: int
    """Of `multiprocessing`: negative for a signal."""
    log: Path
    oom_kills: int
    """Processes that the kernel killed for memory while it ran."""


def was_killed(exit_: Exit) -> bool:
    """Whether somebody killed the child, or the forkserver with it, and it was no lack of memory.

    That is no more the job's fault than the death of its worker.
    """
    return exit_.code in {-signal.SIGKILL, _FORKSERVER_GONE} and not exit_.oom_kills


def failure_of_exit(exit_: Exit) -> Failure:
    """Why a child ended without a word."""
    if was_killed(exit_):
        return _killed()
    if exit_.code == -signal.SIGKILL:
        return _killed_for_memory()
    if exit_.code < 0:
        return _crashed(exit_)
    return PlatformError(
        f"The process ended with exit code {exit_.code} and without a result.{_quoted(last_words(exit_.log))}",
        code="training_process_ended",
    ).failure()


def failure_of_stall(exit_: Exit, *, seconds: float) -> Failure:
    """Of a process that we ended because it was silent for so long; its last words say where it was."""
    return PlatformError(
        f"The training process did nothing for {seconds:.0f} s and was ended. Look at its device and its disk; if "
        f"single steps take so long here, allow more (THAW_STALL_SECONDS).{_quoted(last_words(exit_.log))}",
        code="training_process_stalled",
    ).failure()


def _killed() -> Failure:
    return PlatformError(
        "Somebody on the machine killed the process (SIGKILL), and it was neither Thaw nor a lack of memory.",
        code="training_process_killed",
    ).failure()


def _killed_for_memory() -> Failure:
    return CapacityError(
        "The machine ran out of memory, and the kernel killed the process. Use a smaller batch size, "
        "smaller inputs or a larger machine."
    ).failure()


def _crashed(exit_: Exit) -> Failure:
    words = _quoted(last_words(exit_.log))
    if any(sign in line for line in _tail(exit_.log) for sign in _MEMORY_SIGNS):
        return CapacityError(f"Memory ran out, and the process ended ({_name(exit_.code)}).{words}").failure()
    message = f"{_CRASHES[exit_.task]} ({_name(exit_.code)}).{words}"
    # A file that crashes the library that reads it is refused like any other that cannot be read.
    if exit_.task == "register":
        return SourceError(message).failure()
    if exit_.task == "validate":
        return DataError(message).failure()
    return PlatformError(message, code="training_process_crashed").failure()


def _name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _quoted(words: str) -> str:
    return f" Its last words: {words}" if words else ""


def last_words(log: Path) -> str:
    """What a process printed last, on one line: around a crash, else at the end. Empty if there is nothing."""
    lines = _tail(log)
    fatal = [number for number, line in enumerate(lines) if line.startswith(_FATAL)]
    start = max(0, fatal[-1] - _TAIL_LINES // 2) if fatal else max(0, len(lines) - _TAIL_LINES)
    return " | ".join(line[:300] for line in lines[start : start + _TAIL_LINES])


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
