"""`/v1/uploads`: files that arrive in parts, and go on where they were cut off."""

from typing import Annotated

import structlog
from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from app.api.creation import Creation
from app.api.deps import CreationDep, PageDep, PartId, ProjectDep, ServicesDep, UploadId, thaw_router
from app.api.forms import safe_filename
from app.api.receiving import ReceivedPart, receive_part
from app.api.schemas.uploads import (
    PART_FIELD,
    CompleteRequest,
    PartFields,
    UploadList,
    UploadObject,
    UploadPartList,
    UploadPartObject,
    UploadRequest,
)
from app.domain.errors import ThawError
from app.domain.upload import UploadStatus
from app.services import completion, leftovers, uploads

PATH = "/v1/uploads"
router = thaw_router(PATH, tag="uploads")
part_router = thaw_router(PATH, tag="uploads", json=False)
"""Apart, because its bodies may be larger than those of the others."""

log = structlog.get_logger("thaw.api")

_FIELDS = {
    # Left out, not null: a form has no such value.
    name: {**schema["anyOf"][0], "description": schema["description"]}
    for name, schema in PartFields.model_json_schema()["properties"].items()
}
FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [PART_FIELD],
                "additionalProperties": False,
                "properties": {
                    PART_FIELD: {
                        "type": "string",
                        "format": "binary",
                        "description": "The part's bytes, at most `limits.max_part_bytes` of `/v1/capabilities`.",
                    },
                    **_FIELDS,
                },
            },
            "example": {PART_FIELD: "…", "number": 1},
        }
    },
}


@router.post("", status_code=201, response_model=UploadObject)
def create_upload(body: UploadRequest, creation: CreationDep) -> Response:
    """Begin an upload. Its parts may come in any order and to any process, again and again, until it is completed."""

    def make() -> tuple[str, UploadObject]:
        upload = uploads.create(
            creation.services,
            creation.project,
            size=body.bytes,
            filename=safe_filename(body.filename),
            purpose=body.purpose,
            mime_type=body.mime_type,
            sha256=body.sha256,
        )
        return f"{PATH}/{upload.id}", UploadObject.of(upload)

    return creation.once(body, make)


@router.get("")
def list_uploads(
    *,
    services: ServicesDep,
    project: ProjectDep,
    page: PageDep,
    status: Annotated[UploadStatus | None, Query(description="Only uploads with this status.")] = None,
    sha256: Annotated[
        str | None, Query(pattern=r"^[0-9a-f]{64}$", description="Only uploads of a file with this digest.")
    ] = None,
    filename: Annotated[str | None, Query(max_length=1000, description="Only uploads of a file of this name.")] = None,
) -> UploadList:
    """List uploads, the newest first."""
    name = None if filename is None else safe_filename(filename)
    found = uploads.list_page(services, project, page, status=status, sha256=sha256, filename=name)
    return UploadList.of(
        [UploadObject.of(upload) for upload in found.items], name=lambda upload: upload.id, has_more=found.has_more
    )


@router.get("/{upload_id}")
def retrieve_upload(upload_id: UploadId, services: ServicesDep, project: ProjectDep) -> UploadObject:
    """Retrieve an upload."""
    return UploadObject.of(uploads.get(services, project, upload_id))


@part_router.post(
    "/{upload_id}/parts", status_code=201, response_model=UploadPartObject, openapi_extra={"requestBody": FORM}
)
async def create_upload_part(
    upload_id: UploadId, request: Request, services: ServicesDep, creation: CreationDep
) -> Response:
    """Add a part. One that is cut off, or has not the checksum that came with it, leaves nothing."""
    upload = await run_in_threadpool(uploads.get_open, services, creation.project, upload_id)
    max_bytes = min(upload.bytes, services.settings.max_part_bytes)
    received = await receive_part(request, services.store, max_bytes=max_bytes)
    return await run_in_threadpool(_add, creation, upload_id, received)


def _add(creation: Creation, upload_id: str, received: ReceivedPart) -> Response:
    content, sealed = received.content, received.sealed
    kept = False

    def make() -> tuple[str, UploadPartObject]:
        nonlocal kept
        part = uploads.add_part(
            creation.services,
            creation.project,
            upload_id,
            number=received.fields.number,
            content=content,
            sealed=sealed,
        )
        kept = part.sealed == sealed
        return f"{PATH}/{upload_id}/parts/{part.id}", UploadPartObject.of(part)

    try:
        response = creation.once({**received.fields.model_dump(), **content.model_dump()}, make)
    except ThawError:  # refused, so it was not entered
        leftovers.remove(creation.services, [sealed.sha256])
        raise
    if not kept:  # it was there already
        leftovers.remove(creation.services, [sealed.sha256])
    return response


@router.get("/{upload_id}/parts")
def list_upload_parts(upload_id: UploadId, services: ServicesDep, project: ProjectDep, page: PageDep) -> UploadPartList:
    """List the parts that have arrived, by their numbers. An upload that has ended has none."""
    found = uploads.parts_page(services, project, upload_id, page)
    return UploadPartList.of(
        [UploadPartObject.of(part) for part in found.items], name=lambda part: part.id, has_more=found.has_more
    )


@router.get("/{upload_id}/parts/{part_id}")
def retrieve_upload_part(
    upload_id: UploadId, part_id: PartId, services: ServicesDep, project: ProjectDep
) -> UploadPartObject:
    """Retrieve a part of an upload that has not ended."""
    return UploadPartObject.of(uploads.get_part(services, project, upload_id, part_id))


@router.post("/{upload_id}/complete")
def complete_upload(
    upload_id: UploadId, body: CompleteRequest, services: ServicesDep, project: ProjectDep
) -> UploadObject:
    """Make a file of the parts. The same request again gets the same answer; a refused one changes nothing."""
    upload = completion.complete(services, project, upload_id, part_ids=body.part_ids, md5=body.md5, sha256=body.sha256)
    log.info("Completed an upload.", upload_id=upload_id, parts=len(body.part_ids), bytes=upload.bytes)
    return UploadObject.of(upload)


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: UploadId, services: ServicesDep, project: ProjectDep) -> UploadObject:
    """Cancel an upload; its parts are deleted. Asking again is fine."""
    return UploadObject.of(uploads.cancel(services, project, upload_id))
