"""What forms bring: the file in a form goes to the store while it arrives, a mebibyte at a time."""

import contextlib
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.api.forms import FormReader
from app.api.schemas.uploads import PART_FIELD, PartFields
from app.domain.artifacts import Blob
from app.domain.errors import FieldProblem, InvalidRequestError
from app.storage.artifacts import ArtifactStore, BlobWriter

WRITE_BYTES: Final = 1024**2
"""Written and hashed in one go off the event loop; uvicorn's own 64 KiB would be too little for a trip to a thread."""

Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class ReceivedFile(Generic[Fields]):
    """What a form brought; its file is in the store."""

    filename: str
    fields: Fields
    blob: Blob


@dataclass(frozen=True)
class ReceivedPart:
    """What a form brought; its bytes are in the store, in a blob of their own."""

    fields: PartFields
    content: Blob
    """Digest and size of the bytes."""
    sealed: Blob
    """The blob that begins with them."""


async def receive_file(
    request: Request, store: ArtifactStore, *, fields: type[Fields], max_bytes: int
) -> ReceivedFile[Fields]:
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
    return ReceivedFile(filename=filename, fields=checked, blob=blob)


async def receive_part(request: Request, store: ArtifactStore, *, max_bytes: int) -> ReceivedPart:
    """Stream a part of an upload into the store, and compare it with the checksum that came with it.

    Raises as `receive_file` does; InvalidRequestError also if the bytes have another checksum.
    """
    form = FormReader(request.headers.get("content-type", ""), file_field=PART_FIELD)
    with await run_in_threadpool(store.writer, max_bytes=max_bytes) as writer:
        await _copy(request, form, writer)
        form.finish()
        checked = _checked(PartFields, form.fields)
        content = writer.written()
        _compare(checked.sha256, content)
        sealed = await run_in_threadpool(_sealed, writer)
    return ReceivedPart(fields=checked, content=content, sealed=sealed)


def _sealed(writer: BlobWriter) -> Blob:
    writer.seal()
    return writer.commit()


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


def _compare(expected: str | None, content: Blob) -> None:
    if expected is None or expected == content.sha256:
        return
    message = (
        f"The part has the sha256 {content.sha256} ({content.bytes:,} bytes); expected {expected}. "
        "It was changed on the way and was not kept. Send it again."
    )
    problem = FieldProblem(pointer="/sha256", code="wrong_checksum", message=message)
    raise InvalidRequestError(message, param="/sha256", problems=[problem])
