"""`client.models`: sources, and the results of jobs."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

from thaw.connection import Connection
from thaw.downloading import download
from thaw.reading import OnProgress, Source
from thaw.records import CatalogueModel, Layer, Model, read
from thaw.requests import ENDINGS, NAMED, ModelFile, Rescale
from thaw.resources.paging import Order, entries, every
from thaw.resources.waiting import refusal, wait_until
from thaw.uploading import upload


class Models:
    """Keras models that Thaw knows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def push(
        self,
        source: Source,
        *,
        name: str | None = None,
        rescale: Rescale | None = None,
        labels: Sequence[str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Upload a model file (`.keras`, `.h5`, `.hdf5`) and register it, or have one of the catalogue built.

        Args:
            source: A path or a binary file object; or a name of the catalogue, such as `keras:MobileNetV2`. A file
                over 64 MiB that the service has under this name already, all of it or some parts, is not sent again.
            name: What people will call it; left out, the file's name or the one in the catalogue.
            rescale: How the source wants its inputs; jobs use it unless they say otherwise.
            labels: Names of its outputs, in order.
            wait: Whether to return only when the service has checked the file.
            timeout: The longest to wait, in seconds; `None`: no limit.
            on_progress: Called with the bytes sent and the bytes in all.

        Raises:
            WorkFailedError: The service refused the file; the message says why.
            WaitTimeoutError: The check took longer than `timeout`; it goes on.
        """
        if isinstance(source, str) and source.startswith(NAMED):
            wanted = source
        else:
            stored = upload(self._connection, source, purpose="fine-tune", on_progress=on_progress, reuse=True)
            wanted = str(stored["id"])
        model = self.register(wanted, name=name, rescale=rescale, labels=labels)
        return self.wait(model.id, timeout=timeout) if wait else model

    def register(
        self,
        source: str,
        *,
        name: str | None = None,
        rescale: Rescale | None = None,
        labels: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Model:
        """Have an uploaded file (its id), or a name of the catalogue, made a model; returns at once, `validating`."""
        field = "reference" if source.startswith(NAMED) else "file"
        given = {field: source, "name": name, "rescale": rescale, "labels": list(labels) if labels else None}
        body = {field: value for field, value in given.items() if value is not None}
        key = idempotency_key or uuid.uuid4().hex
        return read(Model, self._connection.post("/v1/models", body=body, idempotency_key=key))

    def wait(
        self, model_id: str, *, timeout: float | None = None, on_change: Callable[[Model], None] | None = None
    ) -> Model:
        """Wait until the model is `ready`; `WorkFailedError` if the service refused it."""
        model = wait_until(
            Model,
            self._connection,
            f"/v1/models/{model_id}",
            done=lambda found: found.status in {"ready", "failed"},
            timeout=timeout,
            on_change=on_change,
        )
        if model.status == "failed":
            raise refusal(model.id, model.error)
        return model

    def list(self, *, status: str | None = None, order: Order = "desc") -> Iterator[Model]:
        """Every model, fetched page by page."""
        return every(Model, self._connection, "/v1/models", {"status": status, "order": order})

    def get(self, model_id: str) -> Model:
        """One model."""
        return read(Model, self._connection.get(f"/v1/models/{model_id}"))

    def catalogue(self) -> Sequence[CatalogueModel]:
        """What may be named without a file, with its options."""
        return entries(CatalogueModel, self._connection.get("/v1/catalogue"))

    def layers(self, model_id: str) -> Sequence[Layer]:
        """The layer table: what `cut` and `unfreeze` count and name, and which layers are legal cuts."""
        return entries(Layer, self._connection.get(f"/v1/models/{model_id}/layers"))

    def download(
        self,
        model_id: str,
        destination: str | PathLike[str] | None = None,
        *,
        format: ModelFile | None = None,  # noqa: A002 (the API's word)
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Save the model's file.

        Args:
            model_id: Which.
            destination: As in `Jobs.download`.
            format: One of the model's `formats`; left out, the file as it was pushed, or the job's `model.keras`.
            on_progress: Called with the bytes done and the bytes in all.

        Returns:
            Where the file is.

        Raises:
            NotFoundError: The model is not there in this format; the message says in which it is.
        """
        return download(
            self._connection,
            f"/v1/models/{model_id}/content" + (f"?format={format}" if format else ""),
            destination,
            default_name=f"{model_id}{ENDINGS[format or 'keras']}",
            on_progress=on_progress,
        )

    def delete(self, model_id: str) -> None:
        """Delete a model; `ConflictError` while unfinished jobs need it."""
        self._connection.delete(f"/v1/models/{model_id}")
