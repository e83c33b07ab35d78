"""Uploads: files that arrive in parts, at whichever API process, and go on where they were cut off.

    create      pending, until nothing was added for `upload_seconds`
    add_part    its bytes are in the store already; the same bytes under the same number are one part
    complete    makes a file of its parts (`app.services.completion`)
    cancel      ends it without one
    expire      the sweeper's

Of those who end an upload at the same moment one does. The sweeper deletes the parts of those that have ended.
"""

from sqlalchemy.orm import Session

from app.domain.artifacts import Blob
from app.domain.errors import ConflictError, InvalidStateTransitionError, NotFoundError, TooLargeError
from app.domain.ids import new_id
from app.domain.upload import MAX_PARTS, Upload, UploadPart, UploadStatus
from app.services.context import Services
from app.storage import uploads
from app.storage.database import time_of
from app.storage.paging import Page, PageQuery

TIMES = 2
"""How often the bytes of an upload may arrive: parts whose answer was lost are sent again, under another number."""


def create(
    services: Services,
    project: str,
    *,
    size: int,
    filename: str,
    purpose: str,
    mime_type: str,
    sha256: str | None = None,
) -> Upload:
    """Begin an upload of `size` bytes. Raises `TooLargeError`, and `StorageFullError` if there is no room for it."""
    limit = services.settings.max_upload_bytes
    if size > limit:
        message = f"The file has {size:,} bytes; at most {limit:,} are accepted (THAW_MAX_UPLOAD_BYTES)."
        raise TooLargeError(message, param="/bytes")
    # Its parts, and for a moment beside them the whole.
    services.store.check_room(spooled=size, kept=size)
    with services.db.begin() as session:
        created_at = time_of(session)
        upload = Upload(
            id=new_id("upload"),
            created_at=created_at,
            expires_at=created_at + services.settings.upload_seconds,
            status="pending",
            bytes=size,
            filename=filename,
            purpose=purpose,
            mime_type=mime_type,
            sha256=sha256,
        )
        uploads.add(session, project, upload)
    return upload


def get(services: Services, project: str, identifier: str) -> Upload:
    """One upload. Raises `NotFoundError`."""
    with services.db.read() as session:
        return found(session, project, identifier)


def list_page(
    services: Services,
    project: str,
    query: PageQuery,
    *,
    status: UploadStatus | None = None,
    sha256: str | None = None,
    filename: str | None = None,
) -> Page[Upload]:
    """One page of a project's uploads. Raises `InvalidRequestError` for an unknown `query.after`."""
    with services.db.read() as session:
        return uploads.page(session, project, query, status=status, sha256=sha256, filename=filename)


def cancel(services: Services, project: str, identifier: str) -> Upload:
    """End an upload without a file; one that is cancelled already stays so.

    Raises `NotFoundError`, `InvalidStateTransitionError`.
    """
    with services.db.begin() as session:
        cancelled = uploads.end(session, project, identifier, new="cancelled")
        if cancelled is not None:
            return cancelled
        upload = found(session, project, identifier)
        if upload.status != "cancelled":
            raise not_open(upload, "it cannot be cancelled")
    return upload


# === Parts ===


def get_open(services: Services, project: str, identifier: str) -> Upload:
    """One upload to which a part may be added. Raises `NotFoundError`, `InvalidStateTransitionError`."""
    with services.db.read() as session:
        upload = found(session, project, identifier)
        if upload.status != "pending":
            raise not_open(upload, "no part can be added to it")
    return upload


def add_part(
    services: Services, project: str, upload_id: str, *, number: int | None, content: Blob, sealed: Blob
) -> UploadPart:
    """Enter a part whose bytes are in the store as `sealed`, or find it there already under its number.

    Without a number it gets the next one. Raises `NotFoundError`, `InvalidStateTransitionError`, `ConflictError` for a
    number that other bytes have, `TooLargeError`.
    """
    with services.db.begin() as session:
        upload = uploads.extend(session, project, upload_id, seconds=services.settings.upload_seconds)
        if upload is None:
            raise not_open(found(session, project, upload_id), "no part can be added to it")
        there = uploads.part_with_number(session, project, upload_id, number) if number else None
        if there is not None:
            return _same(there, content)
        arrived = uploads.arrived(session, project, upload_id)
        part = UploadPart(
            id=new_id("part"),
            upload_id=upload_id,
            created_at=time_of(session),
            number=number or arrived.highest_number + 1,
            content=content,
            sealed=sealed,
        )
        _refuse_too_much(upload, arrived, part)
        uploads.add_part(session, project, part)
    return part


def get_part(services: Services, project: str, upload_id: str, part_id: str) -> UploadPart:
    """One part of a pending upload. Raises `NotFoundError`."""
    with services.db.read() as session:
        pending = found(session, project, upload_id).status == "pending"
        part = uploads.find_part(session, project, upload_id, part_id) if pending else None
    if part is None:
        message = f"Upload '{upload_id}' has no part '{part_id}'. List its parts; one that has ended has none."
        raise NotFoundError(message)
    return part


def parts_page(services: Services, project: str, upload_id: str, query: PageQuery) -> Page[UploadPart]:
    """One page of what has arrived, by numbers; nothing once the upload has ended.

    Raises `NotFoundError`, and `InvalidRequestError` for an unknown `query.after`.
    """
    with services.db.read() as session:
        if found(session, project, upload_id).status != "pending":
            return Page(items=[], has_more=False)
        return uploads.parts_page(session, project, upload_id, query)


def _same(there: UploadPart, content: Blob) -> UploadPart:
    if there.content == content:
        return there
    message = (
        f"Part {there.number} of upload '{there.upload_id}' has arrived with other bytes: sha256 "
        f"{there.content.sha256}, received {content.sha256}. Send these under another number, and name the parts that "
        "you mean when you complete the upload."
    )
    raise ConflictError(message, param="/number")


def _refuse_too_much(upload: Upload, arrived: uploads.Arrived, part: UploadPart) -> None:
    if arrived.parts >= MAX_PARTS or part.number > MAX_PARTS:
        message = f"Upload '{upload.id}' has {MAX_PARTS:,} parts already. Cancel it, and send larger ones."
        raise TooLargeError(message)
    if arrived.bytes + part.content.bytes > TIMES * upload.bytes:
        message = (
            f"The parts of upload '{upload.id}' have {arrived.bytes:,} bytes together, of a file of {upload.bytes:,}. "
            "List them: what is missing may be there already."
        )
        raise TooLargeError(message)


# === Which ===


def found(session: Session, project: str, identifier: str) -> Upload:
    """The upload. Raises `NotFoundError`."""
    upload = uploads.find(session, project, identifier)
    if upload is None:
        message = f"There is no upload '{identifier}'. Begin one, or list what there is."
        raise NotFoundError(message)
    return upload


def not_open(upload: Upload, therefore: str) -> InvalidStateTransitionError:
    """The error for an upload that has ended, and what can therefore not be done."""
    message = f"Upload '{upload.id}' is {upload.status}: {therefore}. Begin another one."
    return InvalidStateTransitionError(message, status=upload.status, allowed_actions=[])
