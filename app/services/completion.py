"""Completion: the parts of an upload become a file.

    choose the parts  ->  put them together, outside of any transaction  ->  the file, and the end of the upload

However many do that at the same moment, and whoever dies on the way: one of them makes the file, and the others, if
they mean the same parts, answer with it. Until then nothing has changed but the upload's time to live.
"""

import hashlib
import json
from collections.abc import Sequence

from app.domain.artifacts import Blob
from app.domain.errors import FieldProblem, InvalidRequestError, PlatformError
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.upload import Upload, UploadPart
from app.services.assembly import Checksums, assemble
from app.services.context import Services
from app.services.uploads import found, get, not_open
from app.storage import files, uploads
from app.storage.database import time_of

MAX_PROBLEMS = 100


def complete(
    services: Services,
    project: str,
    identifier: str,
    *,
    part_ids: Sequence[str],
    md5: str | None = None,
    sha256: str | None = None,
) -> Upload:
    """Make these parts, in this order, a file. Doing it again with the same parts gives the same answer.

    Raises `NotFoundError`; `InvalidStateTransitionError` if it has ended otherwise; `InvalidRequestError` for parts
    that it does not have, another size or another checksum; `StorageFullError`.
    """
    with services.db.begin() as session:
        upload = uploads.extend(session, project, identifier, seconds=services.settings.upload_seconds)
        if upload is None:
            return _completed(found(session, project, identifier), part_ids)
        chosen = _chosen(upload, uploads.parts(session, project, identifier), part_ids)
    services.store.check_room(spooled=upload.bytes, kept=0)
    try:
        checksums = Checksums(md5=md5, sha256=sha256, declared_sha256=upload.sha256)
        blob = assemble(services.store, chosen, checksums)
    except PlatformError:
        ended = get(services, project, identifier)
        if ended.status == "pending":
            raise
        return _completed(ended, part_ids)  # by somebody else: its parts were deleted meanwhile
    return _finish(services, project, upload, part_ids, blob)


def _finish(services: Services, project: str, upload: Upload, part_ids: Sequence[str], blob: Blob) -> Upload:
    with services.db.begin() as session:
        created_at = time_of(session)
        file = File(
            id=new_id("file"), created_at=created_at, filename=upload.filename, purpose=upload.purpose, blob=blob
        )
        values = {"file_id": file.id, "completed_with": _digest(part_ids)}
        completed = uploads.end(session, project, upload.id, new="completed", values=values)
        if completed is None:
            return _completed(found(session, project, upload.id), part_ids)
        files.add(session, project, file)
    return completed.model_copy(update={"file": file})


def _completed(upload: Upload, part_ids: Sequence[str]) -> Upload:
    """The upload, if it was completed with these parts."""
    if upload.status != "completed":
        raise not_open(upload, "it cannot be completed")
    if upload.completed_with != _digest(part_ids):
        raise not_open(upload, "it cannot be completed again with other parts")
    return upload


def _digest(part_ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(part_ids)).encode()).hexdigest()


# === Which parts ===


def _chosen(upload: Upload, there: Sequence[UploadPart], part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts that make the file, in its order."""
    left = {part.id: part for part in there}
    chosen = [left.pop(part_id, None) for part_id in part_ids]
    wrong = [index for index, part in enumerate(chosen) if part is None]
    if wrong:
        problems = [_wrong_part(upload, part_ids, index) for index in wrong[:MAX_PROBLEMS]]
        raise InvalidRequestError(problems[0].message, param=problems[0].pointer, problems=problems)
    parts = [part for part in chosen if part is not None]
    _check_size(upload, parts)
    return parts


def _wrong_part(upload: Upload, part_ids: Sequence[str], index: int) -> FieldProblem:
    part_id = part_ids[index]
    if part_id in part_ids[:index]:
        code, message = "named_twice", f"The part '{part_id}' is named twice. Name each once, in the order of the file."
    else:
        code, message = "unknown_id", f"Upload '{upload.id}' has no part '{part_id}'. List its parts."
    return FieldProblem(pointer=f"/part_ids/{index}", code=code, message=message)


def _check_size(upload: Upload, parts: Sequence[UploadPart]) -> None:
    size = sum(part.content.bytes for part in parts)
    if size == upload.bytes:
        return
    message = (
        f"These {len(parts)} parts have {size:,} bytes together, and the file was to have {upload.bytes:,}. "
        "List the parts to see what is missing, or cancel the upload and begin one of the right size."
    )
    problem = FieldProblem(pointer="/part_ids", code="wrong_size", message=message)
    raise InvalidRequestError(message, param="/part_ids", problems=[problem])
