"""Files."""

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from app.domain.artifacts import Blob
from app.domain.file import File
from app.storage.paging import Page, PageQuery, page_of
from app.storage.tables import FileRow


def add(session: Session, project: str, file: File) -> None:
    """Enter an upload."""
    session.add(FileRow(project=project, **file.model_dump(exclude={"blob"}), blob=file.blob.model_dump()))
    session.flush()


def find(session: Session, project: str, identifier: str) -> File | None:
    """The file, or `None`."""
    row = session.scalars(_one(project, identifier)).one_or_none()
    return None if row is None else file_of(row)


def hold(session: Session, project: str, identifier: str) -> File | None:
    """The file, which nobody deletes until this transaction ends."""
    row = session.scalars(_one(project, identifier).with_for_update(read=True)).one_or_none()
    return None if row is None else file_of(row)


def lock(session: Session, project: str, identifier: str) -> File | None:
    """The file, from which nobody makes anything until this transaction ends."""
    row = session.scalars(_one(project, identifier).with_for_update()).one_or_none()
    return None if row is None else file_of(row)


def page(session: Session, project: str, query: PageQuery, *, purpose: str | None) -> Page[File]:
    """One page of a project's files."""
    where = [] if purpose is None else [FileRow.purpose == purpose]
    return page_of(session, FileRow, project, query, where=where).map(file_of)


def remove(session: Session, project: str, identifier: str) -> None:
    """Forget an upload."""
    session.execute(delete(FileRow).where(FileRow.id == identifier, FileRow.project == project))


def _one(project: str, identifier: str) -> Select[FileRow]:
    return select(FileRow).where(FileRow.id == identifier, FileRow.project == project)


def file_of(row: FileRow) -> File:
    """The file of a row."""
    return File(
        id=row.id,
        created_at=row.created_at,
        filename=row.filename,
        purpose=row.purpose,
        blob=Blob.model_validate(row.blob),
    )
