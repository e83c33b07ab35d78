"""Models. What they share with datasets stands in `assets`."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.model import LayerRow, Model, ModelOptions, SourceInfo
from app.storage import assets
from app.storage.rows import bundle_of, dumped, dumped_all, failure_of
from app.storage.tables import JobRow, ModelRow


def add(session: Session, project: str, model: Model) -> None:
    """Enter a model: one that a worker is to check (whose hint is sent after the commit), or a job's result."""
    row = ModelRow(
        project=project,
        **model.model_dump(include={"id", "name", "created_at", "status", "file_id", "reference", "job_id"}),
        updated_at=model.created_at,
        rung_at=model.created_at,
        options=dumped(model.options),
        info=None if model.info is None else dumped(model.info),
        canonical=None if model.canonical is None else dumped_all(model.canonical),
        download=dumped_all(model.download),
    )
    session.add(row)
    session.flush()


def find(session: Session, project: str, identifier: str) -> Model | None:
    """The model, or `None`."""
    row = assets.find(session, ModelRow, project, identifier)
    return None if row is None else model_of(row)


def layers(session: Session, project: str, identifier: str) -> list[LayerRow] | None:
    """Of a model that is ready; `None`: it is not, or was deleted."""
    model = find(session, project, identifier)
    return None if model is None or model.info is None else model.info.layers


def by_reference(session: Session, project: str, reference: str) -> list[Model]:
    """Models registered by a name that did not fail, the oldest first (at most 100)."""
    statement = select(ModelRow).where(
        ModelRow.project == project, ModelRow.reference == reference, ModelRow.status != "failed"
    )
    found = session.scalars(statement.order_by(ModelRow.created_at, ModelRow.id).limit(100)).all()
    return [model_of(row) for row in found]


def being_restored_with(session: Session, project: str, asset_id: str, *, limit: int) -> list[str]:
    """The ids of models that are being made of a checkpoint of a job on this model or dataset, the oldest first."""
    statement = (
        select(ModelRow.id)
        .join(JobRow, JobRow.id == ModelRow.job_id)
        .where(ModelRow.project == project, ModelRow.status == "validating")
        .where((JobRow.model_id == asset_id) | (JobRow.dataset_id == asset_id))
    )
    return list(session.scalars(statement.order_by(ModelRow.id).limit(limit)))


def found_out(info: SourceInfo) -> dict[str, object]:
    """The columns of a registered model, for `assets.set_ready`."""
    return {"info": dumped(info)}


def model_of(row: ModelRow) -> Model:
    """The value that a row stands for."""
    return Model(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        status=row.status,
        file_id=row.file_id,
        reference=row.reference,
        job_id=row.job_id,
        options=ModelOptions.model_validate(row.options),
        info=None if row.info is None else SourceInfo.model_validate(row.info),
        canonical=None if row.canonical is None else bundle_of(row.canonical),
        download=bundle_of(row.download),
        error=failure_of(row.error),
    )
