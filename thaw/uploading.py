"""Uploads: streamed from the file, counted, hashed on the way, repeated from the start if the connection breaks."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from thaw.connection import Connection, JsonObject, json_object
from thaw.errors import ThawClientError, UnexpectedAnswerError

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes done and, where it is known, the bytes in all."""

Source = str | os.PathLike[str] | IO[bytes]
"""A path, or a binary file object; of the latter everything is sent, wherever it stands."""

_ANSWER_TIMEOUT_SECONDS = 600.0
"""The service hashes and syncs the file before it answers, which takes minutes for gigabytes on a slow disk."""


def upload(
    connection: Connection,
    source: Source,
    *,
    purpose: str,
    filename: str | None = None,
    on_progress: OnProgress | None = None,
    idempotency_key: str | None = None,
) -> JsonObject:
    """Send a file to `/v1/files`; the service's description of it."""
    key = idempotency_key or uuid.uuid4().hex
    with _opened(source) as file:
        counted = CountedReader(file, on_progress)
        name = filename or _name(source)

        def once() -> JsonObject:
            with connection.open(
                "POST",
                "/v1/files",
                data={"purpose": purpose},
                files={"file": (name, cast("IO[bytes]", counted))},
                headers={"Idempotency-Key": key},
                read_timeout=_ANSWER_TIMEOUT_SECONDS,
            ) as response:
                response.read()
                return json_object(response)

        stored = connection.insist(once) if counted.seekable() else once()
    _compare(stored, counted, name)
    return stored


class CountedReader:
    """A binary file that tells how much of it was read, and hashes it.

    The HTTP library goes back to the start before each try, which starts count and hash anew. It has no `fileno`,
    so that the library asks it for its length through `seek`.
    """

    def __init__(self, file: IO[bytes], on_progress: OnProgress | None = None) -> None:
        self._file = file
        self._on_progress = on_progress
        self._total = self._length() if self.seekable() else None
        self._start_over()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        chunk = self._file.read(size)
        self._hash.update(chunk)
        self._done += len(chunk)
        if self._on_progress is not None and chunk:
            self._on_progress(self._done, self._total)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere else; at the start, count and hash begin anew."""
        position = self._file.seek(offset, whence)
        if position == 0:
            self._start_over()
        return position

    def tell(self) -> int:
        """Where it stands."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Whether it can be sent again; a pipe cannot."""
        return self._file.seekable()

    def sha256(self) -> str:
        """Of what was read since the start."""
        return self._hash.hexdigest()

    def _start_over(self) -> None:
        self._done = 0
        self._hash = hashlib.sha256()

    def _length(self) -> int:
        here = self._file.tell()
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(here)
        return length


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    """The file object itself, or the file at the path, closed afterwards."""
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    path = Path(source).expanduser()
    try:
        file = path.open("rb")
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        raise ThawClientError(message) from error
    with file:
        yield file


def _name(source: Source) -> str:
    """The last part of the path; file objects may have one, too."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(named).name if isinstance(named, str | os.PathLike) else "upload"


def _compare(stored: JsonObject, sent: CountedReader, name: str) -> None:
    theirs = stored.get("sha256")
    if theirs is not None and theirs != sent.sha256():
        message = f"{name} was changed on the way: sent sha256 {sent.sha256()}, stored {theirs}. Upload it again."
        raise UnexpectedAnswerError(message)
