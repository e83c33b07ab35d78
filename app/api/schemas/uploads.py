"""Uploads and their parts on the wire."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.base import ListOf, Wire
from app.api.schemas.files import FileObject, Purpose
from app.domain.upload import MAX_PARTS, Upload, UploadPart, UploadStatus

PART_FIELD = "data"
"""The part's bytes, in its form."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["9e107d9d372bb6826bd81d3542a419d6" * 2])]
PartId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._\-]{1,100}$")]


class UploadRequest(BaseModel):
    """Begin an upload in parts."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "bytes": 2_147_483_648,
                    "filename": "shoes.zip",
                    "mime_type": "application/zip",
                    "purpose": "fine-tune",
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        },
    )

    bytes: int = Field(ge=0, le=2**53, examples=[2_147_483_648])
    """Size of the whole file; at most `limits.max_upload_bytes` of `/v1/capabilities`."""
    filename: str = Field(min_length=1, max_length=1000, examples=["shoes.zip"])
    """The file's name; of a path the last part is kept."""
    purpose: Purpose = "fine-tune"
    """What OpenAI's clients must say; Thaw keeps it and makes no difference."""
    mime_type: str = Field(default="application/octet-stream", min_length=1, max_length=255)
    """What OpenAI's clients must say; Thaw keeps it and makes no difference."""
    sha256: Sha256 | None = None
    """Digest of the whole file: parts that make another one are refused, and a client that begins anew finds the upload
    by it."""


class PartFields(BaseModel):
    """The fields of a part's form beside its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    number: int | None = Field(default=None, ge=1, le=MAX_PARTS)
    """Its number, which no other part has: the same bytes sent again under it are the same part. Left out: the next."""
    sha256: Sha256 | None = None
    """Digest of its bytes; others are refused."""


class CompleteRequest(BaseModel):
    """Make a file of parts."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [{"part_ids": ["part-01jd8k2v7e0000000000000000", "part-01jd8k2v7e0000000000000001"]}]
        },
    )

    part_ids: list[PartId] = Field(max_length=MAX_PARTS, examples=[["part-01jd8k2v7e0000000000000000"]])
    """The parts in the order of the file, each once. What is not named is deleted."""
    md5: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{32}$", examples=["9e107d9d372bb6826bd81d3542a419d6"])
    """Digest of the whole file; parts that make another one are refused."""
    sha256: Sha256 | None = None
    """The same."""


class UploadObject(Wire):
    """A file that arrives in parts."""

    id: str = Field(examples=["upload-01jd8k2v7e0000000000000000"])
    """Names the upload."""
    object: Literal["upload"] = "upload"
    """Always `upload`."""
    bytes: int
    """Size of the whole file."""
    created_at: int
    """When it was begun."""
    expires_at: int
    """When it is given up; moves on with every part."""
    filename: str
    """The name that the file gets."""
    purpose: str
    """As sent."""
    mime_type: str
    """As sent."""
    sha256: str | None
    """Digest of the whole file, as sent."""
    status: UploadStatus
    """`pending` while parts arrive; then `completed`, `cancelled` or `expired`."""
    file: FileObject | None
    """The file, once it is `completed`; `null` again when that is deleted."""

    @classmethod
    def of(cls, upload: Upload) -> Self:
        """The wire form."""
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=int(upload.created_at),
            expires_at=int(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose,
            mime_type=upload.mime_type,
            sha256=upload.sha256,
            status=upload.status,
            file=None if upload.file is None else FileObject.of(upload.file),
        )


class UploadList(ListOf[UploadObject]):
    """A page of uploads."""


class UploadPartObject(Wire):
    """A part that has arrived."""

    id: str = Field(examples=["part-01jd8k2v7e0000000000000000"])
    """Names the part."""
    object: Literal["upload.part"] = "upload.part"
    """Always `upload.part`."""
    upload_id: str
    """The upload that it belongs to."""
    created_at: int
    """When it arrived."""
    number: int
    """From 1; no other part of the upload has it."""
    bytes: int
    """Its size."""
    sha256: str
    """Digest of its bytes."""

    @classmethod
    def of(cls, part: UploadPart) -> Self:
        """The wire form."""
        return cls(
            id=part.id,
            upload_id=part.upload_id,
            created_at=int(part.created_at),
            number=part.number,
            bytes=part.content.bytes,
            sha256=part.content.sha256,
        )


class UploadPartList(ListOf[UploadPartObject]):
    """A page of parts."""
