"""`client.files`: uploads."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from thaw.connection import Connection
from thaw.downloading import download
from thaw.reading import OnProgress, Source
from thaw.records import File, read
from thaw.resources.paging import Order, every
from thaw.uploading import upload


class Files:
    """Bytes that somebody uploaded."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upload(
        self,
        source: Source,
        *,
        purpose: str = "fine-tune",
        filename: str | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Upload a file, streamed from disk; what arrived is compared with what was sent by sha256.

        Files over 64 MiB go in parts: an upload of the same file that was interrupted is gone on with.

        Args:
            source: A path or a binary file object. One that cannot seek, such as a pipe, goes as a whole and
                once: not again when the connection breaks.
            purpose: Kept with the file, without a meaning for Thaw.
            filename: The name it shall have; left out, the path's last part.
            on_progress: Called with the bytes done and the bytes in all.
            idempotency_key: To repeat an upload of an earlier process without having it twice.
        """
        stored = upload(
            self._connection,
            source,
            purpose=purpose,
            filename=filename,
            on_progress=on_progress,
            idempotency_key=idempotency_key,
        )
        return read(File, stored)

    def list(self, *, purpose: str | None = None, order: Order = "desc") -> Iterator[File]:
        """Every file, fetched page by page."""
        return every(File, self._connection, "/v1/files", {"purpose": purpose, "order": order})

    def get(self, file_id: str) -> File:
        """One file's description."""
        return read(File, self._connection.get(f"/v1/files/{file_id}"))

    def delete(self, file_id: str) -> None:
        """Delete a file; models and datasets that were made of it stay."""
        self._connection.delete(f"/v1/files/{file_id}")

    def download(
        self,
        file_id: str,
        destination: str | PathLike[str] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Save a file's bytes; see `Jobs.download` for what `destination` may be."""
        file = self.get(file_id)
        return download(
            self._connection,
            f"/v1/files/{file_id}/content",
            destination,
            default_name=file.id,
            sha256=file.sha256,
            on_progress=on_progress,
        )
