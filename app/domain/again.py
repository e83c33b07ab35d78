"""Requests that make a new job of an earlier one: retry does the same again, fork goes on another way.

job ── retry ──▶ job with the same spec and seed, from its beginning        `retry_of`
job ── fork ───▶ job that starts from its weights, such as at the end of a phase     `forked_from`
"""

from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from app.domain import remaining
from app.domain.adjusting import as_sent
from app.domain.augmentation import MAX_AUGMENTATIONS, Augmentation, check_order
from app.domain.base import Value
from app.domain.caching import CacheWish
from app.domain.exports import ExportFormat
from app.domain.head import KEEP
from app.domain.job import Checkpoint, Job, JobRequest, MaxSeconds, Metadata, Seed, Suffix, UnixSeconds
from app.domain.model import LayerRow
from app.domain.spec import ClassWeights, DropLast, MixedPrecision, Schedule, check_names, check_schedule
from app.domain.states import Priority


class RetryRequest(Value):
    """What is to be different when a job is done again; everything left out is as it was. The deadline is not kept."""

    priority: Priority | None = None
    """Whether it goes before others."""
    max_seconds: MaxSeconds | None = None
    """How long it may run, in seconds."""
    deadline_at: UnixSeconds | None = None
    """When it must have ended, in Unix seconds."""


class ForkRequest(Value):
    """From where a fork starts, and what is to be different in it.

    What is left out is as in the job, but for the deadline. Cut, head and preprocessing are in the checkpoint already.
    """

    checkpoint: str | None = Field(default=None, max_length=100, examples=["ckpt-01jd8k2v7e0000000000000000"])
    """Weights of the job, by the id of their checkpoint: of the end of a phase, or of one that did not end."""
    after_phase: str | None = Field(default=None, max_length=64, examples=["head"])
    """The end of a phase, by the phase's name. Left out as well: the last phase that has ended, or where the job was
    when its time was over."""
    schedule: Schedule | None = Field(
        default=None,
        description=(
            "What to train from there; left out, what was left: the epochs that a phase still had, and the phases "
            "after it, if the same layers can go on training in the same way. Layers are counted and named as in the "
            "model of the checkpoint, in which the head's layers but the last one belong to the backbone."
        ),
        examples=[[{"name": "all", "unfreeze": "all", "epochs": 8}]],
    )
    training_file: str | None = Field(default=None, min_length=1, max_length=100)
    """A dataset's id, or the id of an uploaded data file."""
    cache: CacheWish | None = None
    """Whether frozen layers run once instead of in every epoch."""
    batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """Examples in each step."""
    class_weights: ClassWeights = None
    """How much examples of each class count; `null`, if it is said, means all the same."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """How much of each label is spread over all classes in training."""
    mixed_precision: MixedPrecision | None = None
    """What layers compute in during training."""
    augmentation: list[Augmentation] | None = Field(default=None, max_length=MAX_AUGMENTATIONS)
    """What happens at random to training pictures."""
    exports: list[ExportFormat] | None = Field(default=None, max_length=4)
    """Formats of the result beside `model.keras`."""
    seed: Seed | None = None
    """Of everything that is drawn."""
    suffix: Suffix | None = None
    """Part of the result's name."""
    metadata: Metadata | None = None
    """Yours, to find jobs by."""
    priority: Priority | None = None
    """Whether it goes before others."""
    max_seconds: MaxSeconds | None = None
    """How long it may run, in seconds; `null`, if it is said, means as long as it takes."""
    deadline_at: UnixSeconds | None = None
    """When it must have ended, in Unix seconds."""

    @field_validator("schedule")
    @classmethod
    def _phases_follow(cls, value: Schedule | None) -> Schedule | None:
        if value is not None:
            check_schedule(value)
            check_names(value if isinstance(value, list) else [])
        return value

    @field_validator("augmentation")
    @classmethod
    def _mixup_comes_last(cls, value: list[Augmentation] | None) -> list[Augmentation] | None:
        check_order(value or [])
        return value

    @model_validator(mode="after")
    def _one_place(self) -> "ForkRequest":
        if self.checkpoint is not None and self.after_phase is not None:
            message = "Give checkpoint or after_phase, not both: each names weights of the job"
            raise ValueError(message)
        return self


_NULL_MEANS_SOMETHING = frozenset({"class_weights", "max_seconds", "suffix"})
_OF_SPEC = (
    "cache", "batch_size", "class_weights", "label_smoothing", "mixed_precision", "augmentation", "exports", "seed",
)  # fmt: skip
_OF_JOB = ("suffix", "metadata", "priority", "max_seconds")


def forked(job: Job, checkpoint: Checkpoint, changes: ForkRequest, *, source: Sequence[LayerRow] | None) -> JobRequest:
    """The request of a fork. Raises `UserError` if what is left cannot be said in phases.

    `source`: the layers of the model that the job started from; `None`: it was deleted.
    The model of a checkpoint takes raw examples and ends in its output layer, which is kept; nothing is cut. What is
    left out is as in the job when it was sent: what Thaw changed in it since does not count.
    """
    spec = as_sent(job.spec)
    as_it_was = {name: getattr(spec, name) for name in _OF_SPEC} | {name: getattr(job, name) for name in _OF_JOB}
    given = {
        name: getattr(changes, name)
        for name in changes.model_fields_set & as_it_was.keys()
        if getattr(changes, name) is not None or name in _NULL_MEANS_SOMETHING
    }
    return JobRequest(
        model=checkpoint.id,
        training_file=changes.training_file or job.dataset_id,
        cut=DropLast(drop_last=0),
        head=KEEP,
        schedule=remaining.phases(spec, checkpoint, source) if changes.schedule is None else changes.schedule,
        deadline_at=changes.deadline_at,
        **{**as_it_was, **given},
    )
