"""`/v1/models`: sources that somebody registered, and results of jobs."""

from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from app.api.creation import Creation, reference
from app.api.deps import CreationDep, ModelId, PageDep, ProjectDep, ServicesDep, thaw_router
from app.api.downloads import DOCUMENTED, download
from app.api.schemas.base import Deleted
from app.api.schemas.models import (
    CatalogueList,
    CatalogueObject,
    LayerList,
    LayerObject,
    ModelList,
    ModelObject,
    ModelRequest,
)
from app.domain.catalogue import APPLICATIONS
from app.domain.errors import ConflictError, FieldProblem, InvalidRequestError, NotFoundError, UserError
from app.domain.exports import ModelFile
from app.domain.model import Model
from app.domain.states import AssetStatus
from app.services import models

PATH = "/v1/models"
router = thaw_router(PATH, tag="models")
catalogue_router = thaw_router("/v1/catalogue", tag="models")


@router.post("", status_code=201, response_model=ModelObject)
def register_model(body: ModelRequest, creation: CreationDep) -> Response:
    """Register an uploaded file, a model of the catalogue by its name, or a checkpoint of a job.

    A worker checks the file or builds the model: poll until its status is `ready` or `failed`. What the worker does
    not have of the catalogue it downloads, which may take minutes.
    """
    if (body.file is None) == (body.reference is None):
        message = "Give either `file`, the id of an upload, or `reference`: a name of the catalogue, or a checkpoint."
        problem = FieldProblem(pointer="/file", code="one_of", message=message, allowed=["file", "reference"])
        raise InvalidRequestError(message, param="file", problems=[problem])

    def make() -> tuple[str, ModelObject]:
        model = _registered(creation, body)
        return f"{PATH}/{model.id}", ModelObject.of(model)

    return creation.once(body, make)


def _registered(creation: Creation, body: ModelRequest) -> Model:
    services, project, name, options = creation.services, creation.project, body.name, body.options()
    if body.file is not None:
        with reference("/file"):
            return models.register(services, project, file_id=body.file, name=name, options=options)
    assert body.reference is not None  # one of the two is there
    try:
        with reference("/reference"):
            return models.register_named(services, project, reference=body.reference, name=name, options=options)
    except UserError as error:
        field = "rescale" if error.param == "rescale" else "reference"
        problem = FieldProblem(pointer=f"/{field}", code=error.work_code, message=error.message)
        raise InvalidRequestError(error.message, param=field, problems=[problem]) from error


@catalogue_router.get("")
def list_catalogue(project: ProjectDep) -> CatalogueList:  # noqa: ARG001 (needs a key like everything else)
    """List the models that may be named without a file, with their options."""
    found = [CatalogueObject.of(application) for application in APPLICATIONS.values()]
    return CatalogueList.of(found, name=lambda model: model.id)


@router.get("")
def list_models(
    services: ServicesDep,
    project: ProjectDep,
    page: PageDep,
    status: Annotated[AssetStatus | None, Query(description="Only models with this status.")] = None,
) -> ModelList:
    """List models, the newest first."""
    found = models.list_page(services, project, page, status=status)
    return ModelList.of(
        [ModelObject.of(model) for model in found.items], name=lambda model: model.id, has_more=found.has_more
    )


@router.get("/{model_id}")
def retrieve_model(model_id: ModelId, services: ServicesDep, project: ProjectDep) -> ModelObject:
    """Retrieve a model."""
    return ModelObject.of(models.get(services, project, model_id))


@router.get("/{model_id}/layers")
def list_layers(model_id: ModelId, services: ServicesDep, project: ProjectDep) -> LayerList:
    """List a model's layers as cuts and `unfreeze` count them, and which of them are legal cuts."""
    model = models.get(services, project, model_id)
    if model.info is None:
        raise _not_ready(model, "layers")
    return LayerList.of([LayerObject.of(row) for row in model.info.layers], name=lambda layer: layer.path)


@router.head("/{model_id}/content", include_in_schema=False)
@router.get("/{model_id}/content", response_class=Response, responses=DOCUMENTED)
def download_model(
    *,
    model_id: ModelId,
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    wanted: Annotated[
        ModelFile | None,
        Query(alias="format", description="Which of the model's `formats`; left out: the upload, or `model.keras`."),
    ] = None,
) -> Response:
    """Download a model: the upload as it came, the `model.keras` of its job, or an export that the job made."""
    model = models.get(services, project, model_id)
    if model.reference is not None:
        message = f"Model '{model.id}' is '{model.reference}': nothing was uploaded, so there is nothing to download."
        raise ConflictError(message)
    artifact = model.file(wanted)
    if artifact is None:
        raise _not_ready(model, "content") if wanted is None else _no_format(model, wanted)
    return download(request, services.store, artifact, filename=artifact.name)


@router.delete("/{model_id}")
def delete_model(model_id: ModelId, services: ServicesDep, project: ProjectDep) -> Deleted:
    """Delete a model. Refused with 409 `in_use` while an unfinished job trains from it; `needed_by` has the ids."""
    models.delete(services, project, model_id)
    return Deleted(id=model_id, object="model")


def _no_format(model: Model, wanted: ModelFile) -> NotFoundError:
    there = ", ".join(model.files()) or "none"
    advice = f"Name it in 'exports' of a job, or see in the report of '{model.job_id}' why it failed."
    if model.job_id is None:
        advice = "Exports are made by jobs; leave 'format' out for the file as it was uploaded."
    return NotFoundError(f"Model '{model.id}' is not there as '{wanted}'. There are: {there}. {advice}")


def _not_ready(model: Model, what: str) -> ConflictError:
    return ConflictError(
        f"Model '{model.id}' has no {what}: its status is '{model.status}', it must be 'ready'."
        + (f" Registration failed: {model.error.message}" if model.error else " Ask again when it is.")
    )
