"""Uploads: the file of a form goes to the store while it arrives, a mebibyte at a time."""

import contextlib
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.api.forms import FormReader
from app.domain.artifacts import Blob
from app.storage.artifacts import ArtifactStore, BlobWriter

WRITE_BYTES: Final = 1024**2
"""Written and hashed in one go off the event loop; uvicorn's own 64 KiB would be too little for a trip to a thread."""

Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class Upload(Generic[Fields]):
    """What a form brought; its file is in the store."""

    filename: str
    fields: Fields
    blob: Blob


async def receive_upload(
    request: Request, store: ArtifactStore, *, fields: type[Fields], max_bytes: int
) -> Upload[Fields]:
    """Stream the form's file into the store. Nothing stays there if the form or its file is refused.

    Raises InvalidRequestError, RequestValidationError (wrong fields), TooLargeError, StorageFullError,
    ServiceUnavailableError (a store that does not answer, asked before anything is read); ClientDisconnect if the
    client left.
    """
    form = FormReader(request.headers.get("content-type", ""))
    with await run_in_threadpool(store.writer, max_bytes=max_bytes) as writer:
        await _copy(request, form, writer)
        filename = form.finish()
        checked = _checked(fields, form.fields)
        blob = await run_in_threadpool(writer.commit)
    return Upload(filename=filename, fields=checked, blob=blob)


async def _copy(request: Request, form: FormReader, writer: BlobWriter) -> None:
    waiting = bytearray()
    # Closed in this task even when the form is refused in the middle: a generator left to the garbage
    # collector would be finalized somewhere else.
    async with contextlib.aclosing(request.stream()) as body:
        async for chunk in body:
            waiting += form.feed(chunk)
            if len(waiting) >= WRITE_BYTES:
                await run_in_threadpool(writer.write, waiting)
                waiting = bytearray()
    if waiting:
        await run_in_threadpool(writer.write, waiting)


def _checked(model: type[Fields], received: dict[str, str]) -> Fields:
    try:
        return model.model_validate(received)
    except ValidationError as error:
        details = [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
        raise RequestValidationError(details, body=received) from error
