"""Downloads: to a temporary name, resumed where the connection broke, checked, synced, and only then renamed.

GET             -> 200, ETag, length, digest -> bytes … cut
GET Range: n-   -> 206 -> the other bytes        (200: the file is another one now; from the start)
sha256 as promised? -> fsync -> rename to the destination -> fsync of its folder
"""

import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path, PureWindowsPath
from typing import IO

import httpx2

from thaw.connection import Connection
from thaw.errors import ApiError, ConnectionFailedError, DownloadError
from thaw.reading import OnProgress

_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(
    connection: Connection,
    path: str,
    destination: str | os.PathLike[str] | None,
    *,
    default_name: str,
    sha256: str | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Save what is at `path`.

    Args:
        connection: The service.
        path: Of the URL.
        destination: A file, replaced if it exists; a folder, in which the file gets the name the service gives it;
            or `None` for the working folder.
        default_name: For the case that the service gives it none.
        sha256: What the bytes must have; left out, what the service's headers promise.
        on_progress: Called with the bytes done and in all.

    Returns:
        Where the file is now.

    Raises:
        DownloadError: The bytes are not the promised ones, or nothing was promised.
    """
    target = Path(destination) if destination is not None else Path()
    folder = target if target.is_dir() else target.parent
    with _temporary(folder) as (file, name):
        transfer = _Transfer(connection, path, file, on_progress)
        transfer.run()
        _check(transfer, sha256, path)
        final = target / (transfer.filename or default_name) if target.is_dir() else target
        file.flush()
        os.fsync(file.fileno())
        file.close()
        name.replace(final)
    _sync_folder(folder)
    return final


class _Transfer:
    """One download over as many connections as it takes."""

    def __init__(self, connection: Connection, path: str, file: IO[bytes], on_progress: OnProgress | None) -> None:
        self._connection = connection
        self._path = path
        self._file = file
        self._on_progress = on_progress
        self._etag: str | None = None
        self.total: int | None = None
        self.promised: str | None = None
        self.filename: str | None = None
        self._start_over()

    def run(self) -> None:
        """Fetch until everything is there; gives up when several tries in a row bring nothing new."""
        failures = 0
        while True:
            before = self.done
            try:
                self._fetch()
            except (ApiError, ConnectionFailedError) as error:
                if self.done == self.total:
                    return  # cut after the last byte
                failures = 1 if self.done > before else failures + 1
                pause = self._connection.retry.pause(error, failures)
                if pause is None:
                    raise
                self._connection.sleep(pause)
            else:
                return

    def _start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.hash = hashlib.sha256()
        self.done = 0

    def _fetch(self) -> None:
        # Compressed on the way, ranges and lengths would count other bytes than the ones of the file.
        headers = {"Accept-Encoding": "identity"}
        if self.done and self._etag:
            headers |= {"Range": f"bytes={self.done}-", "If-Range": self._etag}
        with self._connection.open("GET", self._path, headers=headers) as response:
            if response.status_code != httpx2.codes.PARTIAL_CONTENT:
                self._start_over()
                self._read_promises(response)
            # As it comes: gathered to larger pieces, the last one would be lost when the connection breaks.
            for chunk in response.iter_raw():
                self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.hash.update(chunk)
        self.done += len(chunk)
        if self._on_progress is not None:
            self._on_progress(self.done, self.total)

    def _read_promises(self, response: httpx2.Response) -> None:
        headers = response.headers
        length = headers.get("content-length")
        self.total = int(length) if length and length.isdecimal() else None
        self._etag = headers.get("etag")
        self.promised = _digest(headers) or _etag_digest(self._etag)
        self.filename = _filename(headers.get("content-disposition"))


def _check(transfer: _Transfer, expected: str | None, path: str) -> None:
    promised = expected or transfer.promised
    if promised is None:
        message = f"{path} came without a digest, so it cannot be checked; it was not kept."
        raise DownloadError(message)
    received = transfer.hash.hexdigest()
    if received != promised:
        message = f"{path} is damaged: {transfer.done} bytes with sha256 {received} came, {promised} was promised."
        raise DownloadError(message)


def _digest(headers: Mapping[str, str]) -> str | None:
    """The sha256 of the whole file, as Repr-Digest or Content-Digest gives it (RFC 9530): `sha-256=:<base64>:`."""
    for name in ("repr-digest", "content-digest"):
        found = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", headers.get(name, ""))
        if found:
            return base64.b64decode(found[1]).hex()
    return None


def _etag_digest(etag: str | None) -> str | None:
    """Thaw's ETags of files are their sha256."""
    value = (etag or "").removeprefix("W/").strip('"')
    return value if _SHA256.fullmatch(value) else None


def _filename(disposition: str | None) -> str | None:
    """The last part of the name that the service gives; never a path, whatever it says."""
    message = Message()
    message["content-disposition"] = disposition or ""
    given = message.get_filename()
    # As a Windows path, both kinds of slashes and drive letters are taken off.
    name = PureWindowsPath(given).name if given else ""
    return name if name.strip(". ") and name.isprintable() else None


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new hidden file in the folder; gone afterwards unless it was renamed."""
    name = folder / f".thaw-{secrets.token_hex(6)}.part"
    try:
        with name.open("xb") as file:
            yield file, name
    except OSError as error:
        message = f"The download cannot be saved in {folder.absolute()}: {error.strerror or error}."
        raise DownloadError(message) from error
    finally:
        name.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut; Windows cannot do that for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
