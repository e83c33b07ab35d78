"""`/v1/datasets`: validated, immutable sets of examples."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from app.api.creation import reference
from app.api.deps import CreationDep, DatasetId, PageDep, ProjectDep, ServicesDep, thaw_router
from app.api.schemas.base import Deleted
from app.api.schemas.datasets import DatasetList, DatasetObject, DatasetRequest, PreviewList, PreviewObject
from app.domain.errors import ConflictError
from app.domain.states import AssetStatus
from app.services import datasets

PATH = "/v1/datasets"
router = thaw_router(PATH, tag="datasets")


@router.post("", status_code=201, response_model=DatasetObject)
def create_dataset(body: DatasetRequest, creation: CreationDep) -> Response:
    """Make a dataset of an uploaded file. A worker reads it: poll until its status is `ready` or `failed`."""

    def make() -> tuple[str, DatasetObject]:
        with reference("/file"):
            dataset = datasets.create(
                creation.services, creation.project, file_id=body.file, name=body.name, options=body.options()
            )
        return f"{PATH}/{dataset.id}", DatasetObject.of(dataset)

    return creation.once(body, make)


@router.get("")
def list_datasets(
    services: ServicesDep,
    project: ProjectDep,
    page: PageDep,
    status: Annotated[AssetStatus | None, Query(description="Only datasets with this status.")] = None,
) -> DatasetList:
    """List datasets, the newest first."""
    found = datasets.list_page(services, project, page, status=status)
    return DatasetList.of(
        [DatasetObject.of(dataset) for dataset in found.items],
        name=lambda dataset: dataset.id,
        has_more=found.has_more,
    )


@router.get("/{dataset_id}")
def retrieve_dataset(dataset_id: DatasetId, services: ServicesDep, project: ProjectDep) -> DatasetObject:
    """Retrieve a dataset: its classes, splits, and what validation found out."""
    return DatasetObject.of(datasets.get(services, project, dataset_id))


@router.get("/{dataset_id}/preview")
def preview_dataset(dataset_id: DatasetId, services: ServicesDep, project: ProjectDep) -> PreviewList:
    """Look at a few examples of each class."""
    dataset = datasets.get(services, project, dataset_id)
    if dataset.status != "ready":
        message = f"Dataset '{dataset.id}' has no preview: its status is '{dataset.status}', it must be 'ready'."
        raise ConflictError(message)
    examples = datasets.preview(services, project, dataset_id)
    return PreviewList.of([PreviewObject.of(example) for example in examples], name=PreviewObject.name)


@router.delete("/{dataset_id}")
def delete_dataset(dataset_id: DatasetId, services: ServicesDep, project: ProjectDep) -> Deleted:
    """Delete a dataset. Refused with 409 `in_use` while an unfinished job trains on it; `needed_by` has the ids."""
    datasets.delete(services, project, dataset_id)
    return Deleted(id=dataset_id, object="dataset")
