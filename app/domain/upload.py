"""Uploads: files that arrive in parts, each of which may be sent again.

    pending  -> completed    its parts were put together, and the file is there
             -> cancelled    nobody wants it any more
             -> expired      nothing was added to it for `upload_seconds`

An upload leaves `pending` once; its parts are deleted then.
"""

from typing import Literal

from app.domain.artifacts import Blob
from app.domain.base import Value
from app.domain.file import File

UploadStatus = Literal["pending", "completed", "cancelled", "expired"]

MAX_PARTS = 10_000
"""Of one upload, those that it does without in the end included."""


class Upload(Value):
    """A file that is on its way."""

    id: str
    created_at: float
    """Unix seconds."""
    expires_at: float
    """Unix seconds; moves on with every part."""
    status: UploadStatus
    bytes: int
    """Size of the file that it is to become."""
    filename: str
    purpose: str
    mime_type: str
    sha256: str | None
    """What the file must have, if somebody has said so."""
    file: File | None = None
    """What it has become; `None` also if that was deleted since."""
    completed_with: str | None = None
    """Digest of the ids of the parts that were put together, in their order."""


class UploadPart(Value):
    """Some bytes of an upload."""

    id: str
    upload_id: str
    created_at: float
    """Unix seconds."""
    number: int
    """From 1; no other part of the upload has it."""
    content: Blob
    """Digest and size of its bytes."""
    sealed: Blob
    """The blob that begins with them; no other part is in the same one (`BlobWriter.seal`)."""
