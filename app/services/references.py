"""What a request means by `model` and `training_file`: ids of models and datasets, or of files to be made into them.

A file becomes a model or dataset once: jobs that name the same file share what the first of them made of it.
"""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.domain.dataset import Dataset, DatasetOptions
from app.domain.errors import FieldProblem
from app.domain.file import File
from app.domain.job import JobRequest
from app.domain.model import Model, ModelOptions
from app.storage import assets, datasets, files, models
from app.storage.tables import DatasetRow, ModelRow


@dataclass
class References:
    """What was found; a file where a model or dataset is still to be made of it."""

    model: Model | File | None = None
    dataset: Dataset | File | None = None
    problems: list[FieldProblem] = field(default_factory=list)


def find(session: Session, project: str, request: JobRequest) -> References:
    """Look up what the request names. All of it stays as it is until the transaction ends."""
    found = References(
        model=_model(session, project, request.model), dataset=_dataset(session, project, request.training_file)
    )
    if found.model is None:
        found.problems.append(_unknown("/model", request.model, "a model (model-…) or of a file (file-…)"))
    if found.dataset is None:
        found.problems.append(
            _unknown("/training_file", request.training_file, "a dataset (ds-…) or of a file (file-…)")
        )
    for pointer, asset in (("/model", found.model), ("/training_file", found.dataset)):
        if isinstance(asset, Model | Dataset) and asset.error is not None:
            message = f"'{asset.id}' cannot be used: {asset.error.message}"
            found.problems.append(FieldProblem(pointer=pointer, code=asset.error.code, message=message))
    return found


def _model(session: Session, project: str, reference: str) -> Model | File | None:
    if not reference.startswith("file-"):
        row = assets.hold(session, ModelRow, project, reference)
        return None if row is None else models.model_of(row)
    file = files.hold(session, project, reference)
    if file is None:
        return None
    made = [models.model_of(row) for row in assets.from_file(session, ModelRow, project, reference)]
    return next((model for model in made if model.options == ModelOptions()), file)


def _dataset(session: Session, project: str, reference: str) -> Dataset | File | None:
    if not reference.startswith("file-"):
        row = assets.hold(session, DatasetRow, project, reference)
        return None if row is None else datasets.dataset_of(row)
    file = files.hold(session, project, reference)
    if file is None:
        return None
    made = [datasets.dataset_of(row) for row in assets.from_file(session, DatasetRow, project, reference)]
    return next((dataset for dataset in made if dataset.options == DatasetOptions()), file)


def _unknown(pointer: str, reference: str, kinds: str) -> FieldProblem:
    message = f"There is no '{reference}' here. Expected the id of {kinds} of this project."
    return FieldProblem(pointer=pointer, code="not_found", message=message)
