"""Waiting until something has reached a status that it does not leave by itself."""

import time
from collections.abc import Callable
from typing import TypeVar

from thaw.connection import Connection
from thaw.errors import WaitTimeoutError, WorkFailedError
from thaw.records import Failure, Record, read

R = TypeVar("R", bound=Record)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


def wait_until(
    kind: type[R],
    connection: Connection,
    path: str,
    *,
    done: Callable[[R], bool],
    timeout: float | None,
    on_change: Callable[[R], None] | None = None,
) -> R:
    """Ask again until `done`; what has not changed costs the service next to nothing (ETag, 304).

    Raises:
        WaitTimeoutError: It took longer than `timeout` seconds (`None`: no limit).
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE_SECONDS
    etag: str | None = None
    while True:
        answer, etag = connection.get_if_changed(path, etag=etag)
        if answer is not None:
            found = read(kind, answer)
            if on_change is not None:
                on_change(found)
            if done(found):
                return found
        if deadline is not None and time.monotonic() + pause > deadline:
            message = f"{path.rpartition('/')[2]} was not finished within {timeout:g} s; it goes on."
            raise WaitTimeoutError(message)
        connection.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 1.5)


def refusal(identifier: str, failure: Failure | None) -> WorkFailedError:
    """The error for something that ended with the status `failed`."""
    if failure is None:
        return WorkFailedError(f"{identifier} failed; the service does not say why.", identifier=identifier)
    return WorkFailedError(
        f"{identifier} failed: {failure.message}",
        identifier=identifier,
        code=failure.code,
        error_class=failure.error_class,
    )
