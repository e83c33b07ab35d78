"""Datasets: validated from files."""

from pathlib import PurePath

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetOptions, PreviewExample
from app.domain.errors import NotFoundError
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.states import AssetStatus
from app.services import needs
from app.services.context import Services
from app.services.files import unknown_file
from app.services.ringing import Hint, ring
from app.storage import assets, datasets, files, leases
from app.storage.database import time_of
from app.storage.paging import Page, PageQuery
from app.storage.tables import DatasetRow

MAX_NAME = 200
_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".npz", ".csv", ".tsv", ".parquet")


def create(services: Services, project: str, *, file_id: str, name: str | None, options: DatasetOptions) -> Dataset:
    """Enter a dataset that a worker checks; without a name it gets the file's. Raises `NotFoundError`."""
    with services.db.begin() as session:
        file = files.hold(session, project, file_id)
        if file is None:
            raise unknown_file(file_id)
        dataset = enter(session, project, file, name=name, options=options)
    ring(services, [Hint(DatasetRow, project, dataset.id)])
    return dataset


def enter(session: Session, project: str, file: File, *, name: str | None, options: DatasetOptions) -> Dataset:
    """Make the row of a dataset from a file; ring its hint after the commit."""
    dataset = Dataset(
        id=new_id("ds"),
        name=(name or _plain_name(file))[:MAX_NAME],
        created_at=time_of(session),
        status="validating",
        file_id=file.id,
        options=options,
        info=None,
        canonical=None,
        error=None,
    )
    datasets.add(session, project, dataset)
    return dataset


def _plain_name(file: File) -> str:
    name = PurePath(file.filename).name
    ending = next((ending for ending in _ARCHIVES if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or file.id


def get(services: Services, project: str, identifier: str) -> Dataset:
    """One dataset. Raises `NotFoundError`."""
    with services.db.read() as session:
        dataset = datasets.find(session, project, identifier)
    if dataset is None:
        raise unknown_dataset(identifier)
    return dataset


def preview(services: Services, project: str, identifier: str) -> list[PreviewExample]:
    """A few examples of each class, made at validation; none before it is ready. Raises `NotFoundError`."""
    with services.db.read() as session:
        if datasets.find(session, project, identifier) is None:
            raise unknown_dataset(identifier)
        return datasets.preview(session, project, identifier)


def list_page(
    services: Services, project: str, query: PageQuery, *, status: AssetStatus | None = None
) -> Page[Dataset]:
    """One page of a project's datasets. Raises `InvalidRequestError` for an unknown `query.after`."""
    with services.db.read() as session:
        return assets.page(session, DatasetRow, project, query, status=status).map(datasets.dataset_of)


def delete(services: Services, project: str, identifier: str) -> None:
    """Forget a dataset. Jobs that used it keep their records. Raises `InUseError` while something needs it."""
    with services.db.begin() as session:
        if leases.lock(session, DatasetRow, project, identifier) is None:
            raise unknown_dataset(identifier)
        needs.refuse_asset(session, project, "Dataset", identifier)
        assets.remove(session, DatasetRow, project, identifier)


def unknown_dataset(identifier: str) -> NotFoundError:
    """The error for an id that is no dataset of the project."""
    return NotFoundError(f"There is no dataset '{identifier}'. Create it from a file, or list what there is.")
