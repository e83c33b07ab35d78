"""What a job has lived through, on the wire: events, checkpoints, metrics."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from app.api.schemas.base import ListOf, Wire
from app.domain.artifacts import Artifact
from app.domain.ids import event_id
from app.domain.job import Checkpoint, CheckpointKind, EpochMetrics, Event
from app.domain.progress import Level, PhaseProgress


class EventObject(Wire):
    """One line of a job's history."""

    id: str = Field(examples=["ftevent-01jd8k2v7e0000000000000000-00000001"])
    """Names the event."""
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    """Always `fine_tuning.job.event`."""
    number: int
    """Counts from 1 in each job; what `Last-Event-ID` takes. There are no gaps but those that an event of type
    `compacted` tells of: long after the end of a job it stands for those numbered `data.first` to `data.last`."""
    created_at: int
    """When it happened."""
    level: Level
    """`info`, `warn` or `error`."""
    type: str = Field(examples=["metrics"])
    """`message`, `metrics`, `stage`, `phase`, `status`, `resumed`, `checkpoint_refused`, `attempt_lost`, `adjusted`,
    `storage_full`, `compacted`, and `completed` for the last one. An open set."""
    message: str
    """For people."""
    data: Mapping[str, Any]
    """For programs."""

    @classmethod
    def of(cls, event: Event) -> Self:
        """The wire form."""
        return cls(
            id=event_id(event.job_id, event.number),
            number=event.number,
            created_at=int(event.created_at),
            level=event.level,
            type=event.type,
            message=event.message,
            data=event.data,
        )


class EventList(ListOf[EventObject]):
    """A page of events."""


class CheckpointObject(Wire):
    """Weights that another job may begin with, which stay, or what an interrupted job goes on from."""

    id: str = Field(examples=["ckpt-01jd8k2v7e0000000000000000"])
    """Names the checkpoint."""
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    """Always `fine_tuning.job.checkpoint`."""
    created_at: int
    """When it was made."""
    fine_tuned_model_checkpoint: str
    """The checkpoint's id again; OpenAI's name for it."""
    fine_tuning_job_id: str
    """The job that it belongs to."""
    step_number: int
    """Optimizer steps since the start of the job."""
    metrics: dict[str, float]
    """As Keras names them, and `step`, `train_loss` and `valid_loss` as OpenAI does."""
    kind: CheckpointKind
    """`phase`: the weights at the end of a phase; or from within one, after the best epoch where it diverged, or as
    they were when the job's time was over. `resume`: everything needed to go on exactly, of which the last two are
    kept, and the one with the lowest validation loss of the phase, until the job has ended."""
    attempt: int
    """The attempt that wrote it."""
    phase: PhaseProgress
    """Where in the schedule that was."""
    artifact: Artifact | None
    """`phase`: all weights of the model, in the store."""
    bytes: int
    """How large it is, all files together."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The wire form."""
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuned_model_checkpoint=checkpoint.id,
            fine_tuning_job_id=checkpoint.job_id,
            step_number=checkpoint.step,
            metrics=_with_openai_names(checkpoint),
            kind=checkpoint.kind,
            attempt=checkpoint.attempt,
            phase=checkpoint.phase,
            artifact=checkpoint.artifact,
            bytes=sum(each.bytes for each in [*checkpoint.files, *filter(None, [checkpoint.artifact])]),
        )


def _with_openai_names(checkpoint: Checkpoint) -> dict[str, float]:
    names = {"loss": "train_loss", "val_loss": "valid_loss"}
    theirs = {names[name]: value for name, value in checkpoint.metrics.items() if name in names}
    return {**checkpoint.metrics, **theirs, "step": float(checkpoint.step)}


class CheckpointList(ListOf[CheckpointObject]):
    """A page of checkpoints."""


class MetricsObject(Wire):
    """What one epoch measured."""

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    """Always `fine_tuning.job.metrics`."""
    number: int
    """Epochs since the start of the job, from 1."""
    attempt: int
    """The attempt that measured it."""
    created_at: float
    """When the epoch ended."""
    phase: PhaseProgress
    """Where in the schedule that was."""
    step: int
    """Optimizer steps since the start of the job."""
    metrics: dict[str, float]
    """`loss`, `accuracy`, `val_loss`, … as Keras names them, `learning_rate` and `seconds`."""

    @classmethod
    def of(cls, row: EpochMetrics) -> Self:
        """The wire form."""
        return cls(**row.model_dump(exclude={"job_id"}))


class MetricsList(ListOf[MetricsObject]):
    """A page of epochs."""
