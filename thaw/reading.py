"""Files that are sent: opened, counted and hashed on the way."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from thaw.errors import ThawClientError

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes done and, where it is known, the bytes in all."""

Source = str | os.PathLike[str] | IO[bytes]
"""A path, or a binary file object; of the latter everything is sent, wherever it stands."""


class CountedReader:
    """A binary file that tells how much of it was read, and hashes it.

    The HTTP library goes back to the start before each try, which starts count and hash anew. It has no `fileno`,
    so that the library asks it for its length through `seek`.
    """

    def __init__(self, file: IO[bytes], on_progress: OnProgress | None = None) -> None:
        self._file = file
        self._on_progress = on_progress
        self._total = length(file)
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


@contextlib.contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
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


def name_of(source: Source) -> str:
    """The last part of the path; file objects may have one, too."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(named).name if isinstance(named, str | os.PathLike) else "upload"


def length(file: IO[bytes]) -> int | None:
    """How many bytes there are in all; `None` where nobody can tell, as of a pipe."""
    if not file.seekable():
        return None
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size
