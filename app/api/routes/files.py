"""`/v1/files`: uploads, their bytes, and their end."""

from typing import Annotated, get_args

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import CreationDep, FileId, PageDep, ProjectDep, ServicesDep, thaw_router
from app.api.downloads import DOCUMENTED, download
from app.api.receiving import ReceivedFile, receive_file
from app.api.schemas.base import Deleted
from app.api.schemas.files import FileList, FileObject, Purpose, UploadFields
from app.services import files

PATH = "/v1/files"
router = thaw_router(PATH, tag="files")
form_router = thaw_router(PATH, tag="files", json=False)
"""Apart, because its bodies may be larger than those of the others."""

FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": (
                            "A `.keras` or `.h5` model, a zip or tar.gz of class folders, an npz, CSV or Parquet file."
                        ),
                    },
                    "purpose": {
                        "type": "string",
                        "enum": list(get_args(Purpose)),
                        "default": "fine-tune",
                        "description": "What OpenAI's clients must say; Thaw keeps it and makes no difference.",
                    },
                },
            },
            "example": {"purpose": "fine-tune", "file": "shoes.zip"},
        }
    },
}


@form_router.post("", status_code=201, response_model=FileObject, openapi_extra={"requestBody": FORM})
async def create_file(request: Request, services: ServicesDep, creation: CreationDep) -> Response:
    """Upload a file. It is stored and hashed while it arrives; of one that is refused nothing is kept."""
    upload = await receive_file(
        request, services.store, fields=UploadFields, max_bytes=services.settings.max_upload_bytes
    )
    return await run_in_threadpool(_create, creation, upload)


def _create(creation: CreationDep, upload: ReceivedFile[UploadFields]) -> Response:
    def make() -> tuple[str, FileObject]:
        file = files.create(
            creation.services,
            creation.project,
            filename=upload.filename,
            purpose=upload.fields.purpose,
            blob=upload.blob,
        )
        return f"{PATH}/{file.id}", FileObject.of(file)

    return creation.once({"filename": upload.filename, **upload.fields.model_dump(), **upload.blob.model_dump()}, make)


@router.get("")
def list_files(
    services: ServicesDep,
    project: ProjectDep,
    page: PageDep,
    purpose: Annotated[Purpose | None, Query(description="Only files with this purpose.")] = None,
) -> FileList:
    """List uploads, the newest first."""
    found = files.list_page(services, project, page, purpose=purpose)
    return FileList.of(
        [FileObject.of(file) for file in found.items], name=lambda file: file.id, has_more=found.has_more
    )


@router.get("/{file_id}")
def retrieve_file(file_id: FileId, services: ServicesDep, project: ProjectDep) -> FileObject:
    """Retrieve what is known about an upload."""
    return FileObject.of(files.get(services, project, file_id))


@router.head("/{file_id}/content", include_in_schema=False)
@router.get("/{file_id}/content", response_class=Response, responses=DOCUMENTED)
def download_file(file_id: FileId, request: Request, services: ServicesDep, project: ProjectDep) -> Response:
    """Download an upload's bytes, all of them or one `Range`."""
    file = files.get(services, project, file_id)
    return download(request, services.store, file.blob, filename=file.filename)


@router.delete("/{file_id}")
def delete_file(file_id: FileId, services: ServicesDep, project: ProjectDep) -> Deleted:
    """Delete an upload. Models and datasets made from it stay."""
    files.delete(services, project, file_id)
    return Deleted(id=file_id, object="file")
