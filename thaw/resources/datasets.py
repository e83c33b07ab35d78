"""`client.datasets`: validated examples with their splits."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Unpack

from thaw.connection import Connection
from thaw.reading import OnProgress, Source
from thaw.records import Dataset, PreviewExample, read
from thaw.requests import DatasetOptions
from thaw.resources.paging import Order, entries, every
from thaw.resources.waiting import refusal, wait_until
from thaw.uploading import upload


class Datasets:
    """Sets of examples that were checked once and never change."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def push(
        self,
        source: Source,
        *,
        wait: bool = True,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[DatasetOptions],
    ) -> Dataset:
        """Upload class folders (zip, tar.gz), arrays (npz), a table or texts (CSV, Parquet) and have it validated.

        Args:
            source: A path or a binary file object. A file over 64 MiB that the service has under this name already, all
                of it or some parts, is not sent again.
            wait: Whether to return only when the service has validated it.
            timeout: The longest to wait, in seconds; `None`: no limit.
            on_progress: Called with the bytes sent and the bytes in all.
            **options: See `DatasetOptions`.

        Raises:
            WorkFailedError: The data cannot be used; the message says why.
            WaitTimeoutError: The check took longer than `timeout`; it goes on.
        """
        stored = upload(self._connection, source, purpose="fine-tune", on_progress=on_progress, reuse=True)
        dataset = self.create(str(stored["id"]), **options)
        return self.wait(dataset.id, timeout=timeout) if wait else dataset

    def create(self, file_id: str, *, idempotency_key: str | None = None, **options: Unpack[DatasetOptions]) -> Dataset:
        """Have an uploaded file validated; returns at once, with the status `validating`."""
        given: Mapping[str, object] = {"file": file_id, **options}
        body = {field: value for field, value in given.items() if value is not None}
        key = idempotency_key or uuid.uuid4().hex
        return read(Dataset, self._connection.post("/v1/datasets", body=body, idempotency_key=key))

    def wait(
        self, dataset_id: str, *, timeout: float | None = None, on_change: Callable[[Dataset], None] | None = None
    ) -> Dataset:
        """Wait until the dataset is `ready`; `WorkFailedError` if its data cannot be used."""
        dataset = wait_until(
            Dataset,
            self._connection,
            f"/v1/datasets/{dataset_id}",
            done=lambda found: found.status in {"ready", "failed"},
            timeout=timeout,
            on_change=on_change,
        )
        if dataset.status == "failed":
            raise refusal(dataset.id, dataset.error)
        return dataset

    def list(self, *, status: str | None = None, order: Order = "desc") -> Iterator[Dataset]:
        """Every dataset, fetched page by page."""
        return every(Dataset, self._connection, "/v1/datasets", {"status": status, "order": order})

    def get(self, dataset_id: str) -> Dataset:
        """One dataset."""
        return read(Dataset, self._connection.get(f"/v1/datasets/{dataset_id}"))

    def preview(self, dataset_id: str) -> Sequence[PreviewExample]:
        """A few examples of each class, to look at."""
        return entries(PreviewExample, self._connection.get(f"/v1/datasets/{dataset_id}/preview"))

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset; `ConflictError` while unfinished jobs need it."""
        self._connection.delete(f"/v1/datasets/{dataset_id}")
