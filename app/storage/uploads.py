"""Uploads, and the parts that have arrived of them.

An upload leaves `pending` by compare-and-set: 0 rows, and somebody else was first. Whatever is added to it goes through
`extend`, which holds its row until the transaction ends. One that is behind its time has expired, whether a sweeper has
come by or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.domain.artifacts import Blob
from app.domain.file import File
from app.domain.upload import MAX_PARTS, Upload, UploadPart, UploadStatus
from app.storage import files
from app.storage.database import now, time_of
from app.storage.paging import Page, PageQuery, cut_to, in_order, page_of, unknown_after
from app.storage.rows import dumped
from app.storage.tables import FileRow, UploadPartRow, UploadRow


@dataclass(frozen=True)
class Overdue:
    """A pending upload of some project to which nothing was added for too long."""

    project: str
    id: str


@dataclass(frozen=True)
class Arrived:
    """What all parts of an upload make together."""

    parts: int
    bytes: int
    highest_number: int
    """0 without any."""


@dataclass(frozen=True)
class LeftOver:
    """A part that nobody needs any more."""

    project: str
    id: str
    sha256: str
    """Of its blob, which no other part is in."""


# === Uploads ===


def add(session: Session, project: str, upload: Upload) -> None:
    """Enter an upload."""
    session.add(UploadRow(project=project, **upload.model_dump(exclude={"file"})))
    session.flush()


def find(session: Session, project: str, identifier: str) -> Upload | None:
    """The upload as it is now, or `None`."""
    statement = select(UploadRow).where(*_one(project, identifier)).execution_options(populate_existing=True)
    return next(iter(_with_files(session, project, session.scalars(statement).all())), None)


def page(
    session: Session,
    project: str,
    query: PageQuery,
    *,
    status: UploadStatus | None,
    sha256: str | None,
    filename: str | None,
) -> Page[Upload]:
    """One page of a project's uploads."""
    wanted = ((UploadRow.sha256, sha256), (UploadRow.filename, filename))
    where = [column == value for column, value in wanted if value is not None]
    where += [] if status is None else [_has_status(status)]
    found = page_of(session, UploadRow, project, query, where=where)
    return Page(items=_with_files(session, project, found.items), has_more=found.has_more)


def extend(session: Session, project: str, identifier: str, *, seconds: float) -> Upload | None:
    """Have it expire in so many seconds from now, and hold it. `None`: it is not pending, or has expired."""
    statement = update(UploadRow).where(*_open(project, identifier)).values(expires_at=now() + seconds)
    return _changed(session, project, statement.returning(UploadRow))


def end(
    session: Session,
    project: str,
    identifier: str,
    *,
    new: Literal["completed", "cancelled"],
    values: Mapping[str, Any] | None = None,
) -> Upload | None:
    """Pending -> new. `None`: it is no longer pending, or has expired."""
    statement = update(UploadRow).where(*_open(project, identifier)).values(status=new, **(values or {}))
    return _changed(session, project, statement.returning(UploadRow))


def expire(session: Session, project: str, identifier: str) -> Upload | None:
    """Pending -> expired. `None`: it is no longer pending, or something was added to it."""
    statement = update(UploadRow).where(*_one(project, identifier), _is_overdue()).values(status="expired")
    return _changed(session, project, statement.returning(UploadRow))


def overdue(session: Session, *, limit: int) -> list[Overdue]:
    """Pending uploads of all projects that have expired, the oldest first."""
    statement = select(UploadRow.project, UploadRow.id).where(_is_overdue()).order_by(UploadRow.expires_at)
    return [Overdue(*row) for row in session.execute(statement.limit(limit))]


# === Parts ===


def add_part(session: Session, project: str, part: UploadPart) -> None:
    """Enter a part."""
    values = part.model_dump(exclude={"content", "sealed"})
    session.add(UploadPartRow(project=project, **values, **part.content.model_dump(), sealed=dumped(part.sealed)))
    session.flush()


def find_part(session: Session, project: str, upload_id: str, part_id: str) -> UploadPart | None:
    """The part, or `None`."""
    row = session.scalars(_parts(project, upload_id).where(UploadPartRow.id == part_id)).one_or_none()
    return None if row is None else _part(row)


def part_with_number(session: Session, project: str, upload_id: str, number: int) -> UploadPart | None:
    """The part that has this number, or `None`."""
    row = session.scalars(_parts(project, upload_id).where(UploadPartRow.number == number)).one_or_none()
    return None if row is None else _part(row)


def parts(session: Session, project: str, upload_id: str) -> list[UploadPart]:
    """All of them, by their numbers."""
    statement = _parts(project, upload_id).order_by(UploadPartRow.number).limit(MAX_PARTS)
    return [_part(row) for row in session.scalars(statement)]


def parts_page(session: Session, project: str, upload_id: str, query: PageQuery) -> Page[UploadPart]:
    """One page of them, by their numbers. Raises `InvalidRequestError` if `query.after` is none of them."""
    statement = _parts(project, upload_id)
    if query.after is not None:
        last = find_part(session, project, upload_id, query.after)
        if last is None:
            raise unknown_after(query.after)
        behind = UploadPartRow.number > last.number if query.order == "asc" else UploadPartRow.number < last.number
        statement = statement.where(behind)
    statement = statement.order_by(*in_order((UploadPartRow.number,), query.order)).limit(query.limit + 1)
    return cut_to(query, [_part(row) for row in session.scalars(statement)])


def arrived(session: Session, project: str, upload_id: str) -> Arrived:
    """What there is of it."""
    of_all = (func.count(), func.coalesce(func.sum(UploadPartRow.bytes), 0), func.max(UploadPartRow.number))
    statement = select(*of_all).where(UploadPartRow.project == project, UploadPartRow.upload_id == upload_id)
    count, size, highest = session.execute(statement).one()
    return Arrived(parts=count, bytes=int(size), highest_number=highest or 0)


def left_over(session: Session, *, limit: int) -> list[LeftOver]:
    """Parts of all projects whose upload is no longer pending, for the sweeper."""
    statement = (
        select(UploadPartRow)
        .join(UploadRow, UploadRow.id == UploadPartRow.upload_id)
        .where(UploadRow.status != "pending")
        .order_by(UploadPartRow.id)
    )
    rows = session.scalars(statement.limit(limit))
    return [LeftOver(row.project, row.id, Blob.model_validate(row.sealed).sha256) for row in rows]


def remove_part(session: Session, project: str, part_id: str) -> None:
    """Forget a part."""
    session.execute(delete(UploadPartRow).where(UploadPartRow.id == part_id, UploadPartRow.project == project))


# === Rows ===


def _one(project: str, identifier: str) -> list[ColumnElement[bool]]:
    return [UploadRow.id == identifier, UploadRow.project == project]


def _open(project: str, identifier: str) -> list[ColumnElement[bool]]:
    return [*_one(project, identifier), _has_status("pending")]


def _is_overdue() -> ColumnElement[bool]:
    return and_(UploadRow.status == "pending", UploadRow.expires_at <= now())


def _has_status(status: UploadStatus) -> ColumnElement[bool]:
    if status == "pending":
        # A difference, as no index serves it: a page is to come from the one that has its order.
        return and_(UploadRow.status == status, UploadRow.expires_at - now() > 0)
    at_its_end = UploadRow.status == status
    return or_(at_its_end, _is_overdue()) if status == "expired" else at_its_end


def _parts(project: str, upload_id: str) -> Select[UploadPartRow]:
    return select(UploadPartRow).where(UploadPartRow.project == project, UploadPartRow.upload_id == upload_id)


def _changed(session: Session, project: str, statement: Any) -> Upload | None:  # noqa: ANN401 (its type has no public name)
    fresh = {"synchronize_session": False, "populate_existing": True}
    return next(iter(_with_files(session, project, session.scalars(statement, execution_options=fresh).all())), None)


def _with_files(session: Session, project: str, rows: Sequence[UploadRow]) -> list[Upload]:
    """The uploads of these rows, with what they have become: one statement for all."""
    ids = [row.file_id for row in rows if row.file_id is not None]
    statement = select(FileRow).where(FileRow.project == project, FileRow.id.in_(ids))
    found = {file.id: files.file_of(file) for file in session.scalars(statement)} if ids else {}
    at = time_of(session) if any(row.status == "pending" for row in rows) else 0.0
    return [_upload(row, at, found.get(row.file_id or "")) for row in rows]


def _upload(row: UploadRow, at: float, file: File | None) -> Upload:
    return Upload(
        id=row.id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        status="expired" if row.status == "pending" and row.expires_at <= at else row.status,
        bytes=row.bytes,
        filename=row.filename,
        purpose=row.purpose,
        mime_type=row.mime_type,
        sha256=row.sha256,
        file=file,
        completed_with=row.completed_with,
    )


def _part(row: UploadPartRow) -> UploadPart:
    return UploadPart(
        id=row.id,
        upload_id=row.upload_id,
        created_at=row.created_at,
        number=row.number,
        content=Blob(sha256=row.sha256, bytes=row.bytes),
        sealed=Blob.model_validate(row.sealed),
    )
