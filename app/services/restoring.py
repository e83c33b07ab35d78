"""What the model of a checkpoint is made of: its weights, and the model and dataset that its job used."""

from sqlalchemy.orm import Session

from app.domain.errors import UserError
from app.domain.job import Checkpoint
from app.storage import assets, jobs
from app.storage.tables import DatasetRow, ModelRow


def hold(session: Session, project: str, checkpoint: Checkpoint) -> None:
    """Keep it from being deleted until the transaction ends; a model that is entered in it keeps it from then on.

    Raises `UserError` with code `checkpoint_incomplete` if part of it is gone.
    """
    job = jobs.find(session, project, checkpoint.job_id)
    if job is None:
        raise incomplete(checkpoint.id, [checkpoint.job_id])
    gone = [
        identifier
        for row, identifier in ((ModelRow, job.model_id), (DatasetRow, job.dataset_id))
        if assets.hold(session, row, project, identifier) is None
    ]
    if gone:
        raise incomplete(checkpoint.id, gone)


def incomplete(checkpoint_id: str, gone: list[str]) -> UserError:
    """The error for a checkpoint of which these can no longer be found."""
    named = " and ".join(f"'{each}'" for each in gone)
    message = (
        f"Checkpoint '{checkpoint_id}' holds weights only, and what they belong to was deleted: {named}. Start from "
        "another checkpoint, or from the result of a job."
    )
    return UserError(message, code="checkpoint_incomplete")
