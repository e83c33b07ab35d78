"""Files on the wire."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.base import ListOf, Wire
from app.domain.file import File

Purpose = Literal["fine-tune", "assistants", "batch", "vision", "user_data", "evals"]


class UploadFields(BaseModel):
    """The fields of an upload's form beside its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    purpose: Purpose = Field(default="fine-tune", examples=["fine-tune"])
    """What OpenAI's clients must say; Thaw keeps it and makes no difference."""


class FileObject(Wire):
    """An upload."""

    id: str = Field(examples=["file-01jd8k2v7e0000000000000000"])
    """Names the file."""
    object: Literal["file"] = "file"
    """Always `file`."""
    bytes: int
    """Its size."""
    created_at: int
    """When it was uploaded."""
    filename: str
    """Its name, without folders."""
    purpose: str
    """As sent."""
    status: Literal["processed"] = "processed"
    """Always `processed`: what a file is worth is found out when it becomes a model or a dataset."""
    sha256: str
    """Digest of its bytes."""

    @classmethod
    def of(cls, file: File) -> Self:
        """The wire form."""
        return cls(
            id=file.id,
            bytes=file.blob.bytes,
            created_at=int(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            sha256=file.blob.sha256,
        )


class FileList(ListOf[FileObject]):
    """A page of files."""
