"""Models: registered from files, by name or from checkpoints, or made by jobs."""

import re
from dataclasses import dataclass
from pathlib import PurePath

from sqlalchemy.orm import Session

from app.domain import names
from app.domain.artifacts import Artifact, Bundle
from app.domain.dataset import DatasetInfo
from app.domain.errors import NotFoundError, UserError
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.job import Checkpoint
from app.domain.model import Model, ModelOptions
from app.domain.spec import ResolvedSpec
from app.domain.states import AssetStatus
from app.services import needs, restoring
from app.services.context import Services
from app.services.files import unknown_file
from app.services.ringing import Hint, ring
from app.storage import assets, checkpoints, datasets, files, jobs, leases, models
from app.storage.database import time_of
from app.storage.paging import Page, PageQuery
from app.storage.tables import ModelRow

MAX_NAME = 200


def register(services: Services, project: str, *, file_id: str, name: str | None, options: ModelOptions) -> Model:
    """Enter a model that a worker checks; without a name it gets the file's. Raises `NotFoundError`."""
    with services.db.begin() as session:
        file = files.hold(session, project, file_id)
        if file is None:
            raise unknown_file(file_id)
        model = enter(session, project, file, name=name, options=options)
    ring(services, [Hint(ModelRow, project, model.id)])
    return model


def register_named(
    services: Services, project: str, *, reference: str, name: str | None, options: ModelOptions
) -> Model:
    """Enter a model of the catalogue, of a hub or of a checkpoint, which a worker builds.

    Raises `UserError` for a name that there is not, or a checkpoint what belongs to which was deleted; `NotFoundError`
    for a checkpoint that there is not.
    """
    reference = reference if names.is_checkpoint(reference) else names.spelled(reference)
    if options.rescale is not None and names.tells_rescale(reference):
        message = f"How '{reference}' wants its inputs is known. Leave rescale out; a job may still choose otherwise."
        raise UserError(message, code="known_already", param="rescale")
    with services.db.begin() as session:
        if names.is_checkpoint(reference):
            _hold_checkpoint(session, project, reference)
        model = enter(session, project, reference, name=name, options=options)
    ring(services, [Hint(ModelRow, project, model.id)])
    return model


def _hold_checkpoint(session: Session, project: str, identifier: str) -> None:
    checkpoint = checkpoints.find(session, project, identifier)
    if checkpoint is None:
        message = f"There is no checkpoint '{identifier}'. List those of the job."
        raise NotFoundError(message)
    restoring.hold(session, project, checkpoint)


def enter(session: Session, project: str, source: File | str, *, name: str | None, options: ModelOptions) -> Model:
    """Make the row of a model from a file, or a name or checkpoint that there is; ring its hint after the commit."""
    checkpoint = checkpoints.find(session, project, source) if isinstance(source, str) else None
    model = Model(
        id=new_id("model"),
        name=(name or _default_name(source, checkpoint))[:MAX_NAME],
        created_at=time_of(session),
        status="validating",
        file_id=source.id if isinstance(source, File) else None,
        reference=source if isinstance(source, str) else None,
        job_id=checkpoint.job_id if checkpoint else None,
        options=options,
        info=None,
        canonical=None,
        download=_download(source),
        error=None,
    )
    models.add(session, project, model)
    return model


def _default_name(source: File | str, checkpoint: Checkpoint | None) -> str:
    """The file's name without its ending, the title of the name, or the end of the job's id and the phase."""
    if isinstance(source, File):
        return PurePath(source.filename).stem or source.id
    return f"{checkpoint.job_id[-6:]}-{checkpoint.phase.name}" if checkpoint else names.title(source)


def _download(source: File | str) -> Bundle:
    if isinstance(source, str):
        return []
    return [Artifact(name=artifact_name(source.filename), **source.blob.model_dump())]


@dataclass(frozen=True)
class Restorable:
    """The weights of a checkpoint, with everything else that a model is made of again."""

    weights: Artifact
    spec: ResolvedSpec
    source: Model
    data: DatasetInfo


def restorable(services: Services, project: str, checkpoint_id: str) -> Restorable:
    """What a checkpoint is restored from. Raises `UserError` if part of it was deleted since."""
    with services.db.read() as session:
        checkpoint = checkpoints.find(session, project, checkpoint_id)
        job = None if checkpoint is None else jobs.find(session, project, checkpoint.job_id)
        source = None if job is None else models.find(session, project, job.model_id)
        dataset = None if job is None else datasets.find(session, project, job.dataset_id)
    weights = None if checkpoint is None else checkpoint.artifact
    if weights is None or job is None or not (source and source.canonical and dataset and dataset.info):
        message = (
            f"Checkpoint '{checkpoint_id}' holds weights only; the source, the dataset or the job that they belong to "
            "was deleted. Start from another checkpoint, or from the result of a job."
        )
        raise UserError(message, code="checkpoint_incomplete")
    return Restorable(weights, job.spec, source, dataset.info)


def artifact_name(filename: str) -> str:
    """A filename as artifacts may be called: `my model (1).keras` becomes `my_model_1_.keras`."""
    name = re.sub(r"[^A-Za-z0-9._\-]+", "_", PurePath(filename).name)[-MAX_NAME:]
    return name if re.match(r"[A-Za-z0-9]", name) else f"file{name}"[:MAX_NAME]


def get(services: Services, project: str, identifier: str) -> Model:
    """One model. Raises `NotFoundError`."""
    with services.db.read() as session:
        model = models.find(session, project, identifier)
    if model is None:
        raise unknown_model(identifier)
    return model


def list_page(services: Services, project: str, query: PageQuery, *, status: AssetStatus | None = None) -> Page[Model]:
    """One page of a project's models. Raises `InvalidRequestError` for an unknown `query.after`."""
    with services.db.read() as session:
        return assets.page(session, ModelRow, project, query, status=status).map(models.model_of)


def delete(services: Services, project: str, identifier: str) -> None:
    """Forget a model. Jobs that used it keep their records. Raises `InUseError` while something needs it."""
    with services.db.begin() as session:
        if leases.lock(session, ModelRow, project, identifier) is None:
            raise unknown_model(identifier)
        needs.refuse_asset(session, project, "Model", identifier)
        assets.remove(session, ModelRow, project, identifier)


def unknown_model(identifier: str) -> NotFoundError:
    """The error for an id that is no model of the project."""
    return NotFoundError(f"There is no model '{identifier}'. Register it, or list what there is.")
