"""Datasets. What they share with models stands in `assets`."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetInfo, DatasetOptions, PreviewExample
from app.storage import assets
from app.storage.rows import bundle_of, dumped, dumped_all, failure_of
from app.storage.tables import DatasetRow


def add(session: Session, project: str, dataset: Dataset) -> None:
    """Enter a dataset that a worker is to check; its hint is sent after the commit."""
    row = DatasetRow(
        project=project,
        **dataset.model_dump(include={"id", "name", "created_at", "status", "file_id"}),
        updated_at=dataset.created_at,
        rung_at=dataset.created_at,
        options=dumped(dataset.options),
        preview=[],
    )
    session.add(row)
    session.flush()


def find(session: Session, project: str, identifier: str) -> Dataset | None:
    """The dataset, or `None`."""
    row = assets.find(session, DatasetRow, project, identifier)
    return None if row is None else dataset_of(row)


def preview(session: Session, project: str, identifier: str) -> list[PreviewExample]:
    """The examples to look at; none: it is not ready, or there is no such dataset."""
    statement = select(DatasetRow.preview).where(DatasetRow.id == identifier, DatasetRow.project == project)
    found = session.scalars(statement).one_or_none()
    return [PreviewExample.model_validate(each) for each in found or ()]


def found_out(info: DatasetInfo, preview: Sequence[PreviewExample]) -> dict[str, object]:
    """The columns of a validated dataset, for `assets.set_ready`."""
    return {"info": dumped(info), "preview": dumped_all(preview)}


def dataset_of(row: DatasetRow) -> Dataset:
    """The value that a row stands for."""
    return Dataset(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        status=row.status,
        file_id=row.file_id or "",
        options=DatasetOptions.model_validate(row.options),
        info=None if row.info is None else DatasetInfo.model_validate(row.info),
        canonical=None if row.canonical is None else bundle_of(row.canonical),
        error=failure_of(row.error),
    )
