"""Models: registered from files or by name, or made by jobs."""

import re
from pathlib import PurePath

from sqlalchemy.orm import Session

from app.domain import catalogue
from app.domain.artifacts import Artifact, Bundle
from app.domain.errors import InUseError, NotFoundError, UserError
from app.domain.file import File
from app.domain.ids import new_id
from app.domain.model import Model, ModelOptions
from app.domain.states import AssetStatus
from app.services.context import Services
from app.services.files import unknown_file
from app.services.ringing import Hint, ring
from app.storage import assets, files, jobs, leases, models
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
    """Enter a model of the catalogue, which a worker builds. Raises `UserError` for a name that there is not."""
    reference = str(catalogue.parse(reference))
    if options.rescale is not None:
        message = f"How '{reference}' wants its inputs is known. Leave rescale out; a job may still choose otherwise."
        raise UserError(message, code="known_already", param="rescale")
    with services.db.begin() as session:
        model = enter(session, project, reference, name=name, options=options)
    ring(services, [Hint(ModelRow, project, model.id)])
    return model


def enter(session: Session, project: str, source: File | str, *, name: str | None, options: ModelOptions) -> Model:
    """Make the row of a model from a file or a name that was found right; ring its hint after the commit."""
    model = Model(
        id=new_id("model"),
        name=(name or _default_name(source))[:MAX_NAME],
        created_at=time_of(session),
        status="validating",
        file_id=source.id if isinstance(source, File) else None,
        reference=source if isinstance(source, str) else None,
        job_id=None,
        options=options,
        info=None,
        canonical=None,
        download=_download(source),
        error=None,
    )
    models.add(session, project, model)
    return model


def _default_name(source: File | str) -> str:
    """The file's name without its ending, or the name's last part: `MobileNet-alpha-0.25`."""
    if isinstance(source, File):
        return PurePath(source.filename).stem or source.id
    return re.sub(r"[?&=]", "-", source.removeprefix(catalogue.PREFIX))


def _download(source: File | str) -> Bundle:
    if isinstance(source, str):
        return []
    return [Artifact(name=artifact_name(source.filename), **source.blob.model_dump())]


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
    """Forget a model. Jobs that used it keep their records. Raises `InUseError` while unfinished jobs need it."""
    with services.db.begin() as session:
        if leases.lock(session, ModelRow, project, identifier) is None:
            raise unknown_model(identifier)
        job = jobs.unfinished_with(session, project, model=identifier)
        if job is not None:
            message = f"Model '{identifier}' is needed by job '{job}', which is not finished. Cancel it, or wait."
            raise InUseError(message)
        assets.remove(session, ModelRow, project, identifier)


def unknown_model(identifier: str) -> NotFoundError:
    """The error for an id that is no model of the project."""
    return NotFoundError(f"There is no model '{identifier}'. Register it, or list what there is.")
