"""Files: uploads whose bytes are in the artifact store already."""

from app.domain.artifacts import Blob
from app.domain.errors import NotFoundError
from app.domain.file import File
from app.domain.ids import new_id
from app.services import needs
from app.services.context import Services
from app.storage import files
from app.storage.database import time_of
from app.storage.paging import Page, PageQuery


def create(services: Services, project: str, *, filename: str, purpose: str, blob: Blob) -> File:
    """Enter an upload."""
    with services.db.begin() as session:
        created_at = time_of(session)
        file = File(id=new_id("file"), created_at=created_at, filename=filename, purpose=purpose, blob=blob)
        files.add(session, project, file)
    return file


def get(services: Services, project: str, identifier: str) -> File:
    """One file. Raises `NotFoundError`."""
    with services.db.read() as session:
        file = files.find(session, project, identifier)
    if file is None:
        raise unknown_file(identifier)
    return file


def list_page(services: Services, project: str, query: PageQuery, *, purpose: str | None = None) -> Page[File]:
    """One page of a project's files. Raises `InvalidRequestError` for an unknown `query.after`."""
    with services.db.read() as session:
        return files.page(session, project, query, purpose=purpose)


def delete(services: Services, project: str, identifier: str) -> None:
    """Forget an upload. What was made of it stays. Raises `InUseError` while something is being made of it."""
    with services.db.begin() as session:
        if files.lock(session, project, identifier) is None:
            raise unknown_file(identifier)
        needs.refuse_file(session, project, identifier)
        files.remove(session, project, identifier)


def unknown_file(identifier: str) -> NotFoundError:
    """The error for an id that is no file of the project."""
    return NotFoundError(f"There is no file '{identifier}'. Upload it, or list what there is.")
