"""What a request means by `model` and `training_file`.

    model-…  ds-…         a model or dataset
    file-…                a file, to be made into one
    ftjob-…               the model that a job has made
    ckpt-…                weights of a job, such as at the end of a phase, to be restored
    keras:MobileNetV2     a model of the catalogue, to be built
    hf://owner/name       a model of the Hugging Face Hub, to be fetched
    keras_hub:vgg_16_…    a preset of KerasHub, to be fetched

A file or name becomes a model or dataset once: jobs that name the same share what the first of them made of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.domain import names
from app.domain.dataset import Dataset, DatasetOptions
from app.domain.errors import FieldProblem, UserError
from app.domain.file import File
from app.domain.job import Checkpoint, JobRequest
from app.domain.model import Model, ModelOptions
from app.domain.states import TERMINAL
from app.services import restoring
from app.storage import assets, checkpoints, datasets, files, jobs, models
from app.storage.assets import AssetRow
from app.storage.tables import DatasetRow, ModelRow


@dataclass
class References:
    """What was found; a file, or a name, where a model or dataset is still to be made of it."""

    model: Model | File | str | None = None
    dataset: Dataset | File | None = None
    problems: list[FieldProblem] = field(default_factory=list)


def find(session: Session, project: str, request: JobRequest) -> References:
    """Look up what the request names. All of it stays as it is until the transaction ends."""
    found = References(dataset=_dataset(session, project, request.training_file))
    try:
        found.model = _model(session, project, request.model)
    except UserError as error:
        found.problems.append(FieldProblem(pointer="/model", code=error.work_code, message=error.message))
    else:
        if found.model is None:
            kinds = "a model (model-…), file (file-…), job (ftjob-…) or checkpoint (ckpt-…)"
            found.problems.append(_unknown("/model", request.model, kinds))
    if found.dataset is None:
        found.problems.append(
            _unknown("/training_file", request.training_file, "a dataset (ds-…) or of a file (file-…)")
        )
    for pointer, asset in (("/model", found.model), ("/training_file", found.dataset)):
        if isinstance(asset, Model | Dataset) and asset.error is not None:
            message = f"'{asset.id}' cannot be used: {asset.error.message}"
            found.problems.append(FieldProblem(pointer=pointer, code=asset.error.code, message=message))
    return found


def _model(session: Session, project: str, reference: str) -> Model | File | str | None:
    """What a job is to start from. Raises `UserError` for a name that is wrong or a job that has no model."""
    if names.is_name(reference):
        return _named(session, project, names.spelled(reference))
    if names.is_checkpoint(reference):
        checkpoint = checkpoints.find(session, project, reference)
        return None if checkpoint is None else _restored(session, project, checkpoint)
    if reference.startswith("ftjob-"):
        return _result(session, project, reference)
    if not reference.startswith("file-"):
        row = assets.hold(session, ModelRow, project, reference)
        return None if row is None else models.model_of(row)
    file = files.hold(session, project, reference)
    if file is None:
        return None
    made = [models.model_of(row) for row in assets.from_file(session, ModelRow, project, reference)]
    row = _shared(session, ModelRow, project, [model.id for model in made if model.options == ModelOptions()])
    return file if row is None else models.model_of(row)


def _named(session: Session, project: str, reference: str) -> Model | str:
    made = models.by_reference(session, project, reference) if names.is_fixed(reference) else []
    row = _shared(session, ModelRow, project, [model.id for model in made if model.options == ModelOptions()])
    return reference if row is None else models.model_of(row)


def _shared(session: Session, row: type[AssetRow], project: str, made: Sequence[str]) -> AssetRow | None:
    """The first that can still be had, held: since they were read, others may have deleted or failed them."""
    held = (assets.hold(session, row, project, identifier) for identifier in made)
    return next((each for each in held if each is not None and each.status != "failed"), None)


def _restored(session: Session, project: str, checkpoint: Checkpoint) -> Model | str:
    """The model of a checkpoint; if it is still to be made, what it is made of stays until the transaction ends."""
    found = _named(session, project, checkpoint.id)
    if isinstance(found, str):
        restoring.hold(session, project, checkpoint)
    return found


def _result(session: Session, project: str, job_id: str) -> Model | None:
    """The model that a job has made, if there is such a job."""
    job = jobs.find(session, project, job_id)
    if job is None:
        return None
    if job.result_model_id is None:
        wait = f"It has {job.status} without one" if job.status in TERMINAL else f"It is {job.status}; wait for it"
        message = f"Job '{job_id}' has no model to start from. {wait}, or name another source."
        raise UserError(message, code="no_result")
    row = assets.hold(session, ModelRow, project, job.result_model_id)
    if row is None:
        message = f"The model '{job.result_model_id}' that job '{job_id}' made was deleted. Name another source."
        raise UserError(message, code="no_result")
    return models.model_of(row)


def _dataset(session: Session, project: str, reference: str) -> Dataset | File | None:
    if not reference.startswith("file-"):
        row = assets.hold(session, DatasetRow, project, reference)
        return None if row is None else datasets.dataset_of(row)
    file = files.hold(session, project, reference)
    if file is None:
        return None
    made = [datasets.dataset_of(row) for row in assets.from_file(session, DatasetRow, project, reference)]
    row = _shared(session, DatasetRow, project, [each.id for each in made if each.options == DatasetOptions()])
    return file if row is None else datasets.dataset_of(row)


def _unknown(pointer: str, reference: str, kinds: str) -> FieldProblem:
    message = f"There is no '{reference}' here. Expected the id of {kinds} of this project."
    return FieldProblem(pointer=pointer, code="not_found", message=message)
